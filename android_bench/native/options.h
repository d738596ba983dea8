// The command line.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "conditions.h"
#include "timing.h"

struct Options {
    bool probe = false;
    std::string runtime;
    std::string library;

    std::string list;
    std::int64_t first = 0;
    TimingSettings timing;
    std::int64_t threads = 1;
    double timeout_seconds = 0;
    bool usual_memory = false;  // a limit of 4 GB, or half of what there is
    double max_memory = 0;      // bytes; 0: no limit

    std::string affinity;  // a hexadecimal mask, empty: leave it
    std::vector<WatchedFile> watches;
    std::vector<WatchedWord> watched_words;
    std::optional<HotGate> hot_gate;
    double cool_seconds = 0;
    double sentinel_limit = 0;  // times the baseline; 0: no limit
    double sentinel_baseline_ns = 0;
    std::int64_t print_output = 0;
    bool profile = false;
};

// Throws Fatal(kUsage).
Options parse_options(int argc, char **argv);
