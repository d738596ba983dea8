// ONNX Runtime's profiling file.
#pragma once

#include <string>

#include "profile.h"

// The nodes in it, in order of execution, over the inferences that came after the first `warmup_runs`.
OperatorTable read_onnxruntime_profile(const std::string &path, int warmup_runs);
