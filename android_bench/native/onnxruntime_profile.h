// ONNX Runtime's profiling file.
#pragma once

#include <string>
#include <vector>

#include "runtime.h"

// The nodes in it, in order of execution, each averaged over `runs` inferences that came after `warmup_runs` others.
std::vector<OperatorTime> read_onnxruntime_profile(const std::string &path, int warmup_runs, int runs);
