// How long an inference takes: raw samples, nothing averaged.
#pragma once

#include <cstdint>
#include <vector>

class Session;

// As in bpnas.android_bench.runner.RunSettings.
struct TimingSettings {
    std::int64_t warmup_runs = 0;
    double warmup_seconds = 0;
    std::int64_t runs = 1;
    double seconds = 0;
    double sample_ms = 0;
};

struct Timing {
    std::vector<std::int64_t> samples_ns;
    std::int64_t repeats = 1;
    std::int64_t warmup_runs = 0;
    std::int64_t warmup_ns = 0;
};

// CLOCK_MONOTONIC_RAW, which nobody adjusts.
std::int64_t now_ns();

// The first call: lazy allocation and packing, no guide to the others. Where the runtime refuses `index` in the place
// of whole numbers, which as indices may lead beyond an end, it is tried with 0; returns which of them it took.
int infer_first(Session &session, int index);

Timing time_session(Session &session, const TimingSettings &settings);
