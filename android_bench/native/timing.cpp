#include "timing.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <string>

#include "runtime.h"

namespace {

constexpr std::size_t kMostSamples = 1'000'000;

}  // namespace

std::int64_t now_ns() {
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC_RAW, &time);
    return static_cast<std::int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

int infer_first(Session &session, int index) {
    try {
        session.invoke();
    } catch (const Refused &) {
        if (!session.fill(index = 0)) throw;
        try {
            session.invoke();
        } catch (const Refused &reason) {
            // First, for what the runtime says may be long, and is cut.
            const std::string filled = "whole numbers of its inputs were 1, and then 0, and --input-value gives others: ";
            throw Refused(filled + reason.what());
        }
    }
    return index;
}

Timing time_session(Session &session, const TimingSettings &settings) {
    Timing timing;
    const double warmup_limit_ns = settings.warmup_seconds * 1e9;
    std::int64_t start = now_ns();
    while (timing.warmup_runs < settings.warmup_runs || static_cast<double>(timing.warmup_ns) < warmup_limit_ns) {
        session.invoke();
        ++timing.warmup_runs;
        timing.warmup_ns = now_ns() - start;
    }
    // Without a warm-up nothing is known; a second leaves one inference a sample.
    const bool warm = timing.warmup_runs > 0;
    const double estimate_ns = warm ? static_cast<double>(timing.warmup_ns / timing.warmup_runs) : 1e9;
    timing.repeats = std::max<std::int64_t>(1, std::llrint(settings.sample_ms * 1e6 / std::max(estimate_ns, 1.0)));

    const auto runs = static_cast<std::size_t>(settings.runs);
    timing.samples_ns.reserve(std::min(kMostSamples, runs + 4096));
    start = now_ns();
    const std::int64_t end = start + static_cast<std::int64_t>(settings.seconds * 1e9);
    while ((timing.samples_ns.size() < runs || now_ns() < end) && timing.samples_ns.size() < kMostSamples) {
        const std::int64_t before = now_ns();
        for (std::int64_t i = 0; i < timing.repeats; ++i) session.invoke();
        const std::int64_t sample_ns = now_ns() - before;
        if (sample_ns > 0) {
            timing.samples_ns.push_back(sample_ns);
        } else {  // shorter than the clock can tell: all of them again, with more inferences each
            timing.repeats *= 2;
            timing.samples_ns.clear();
        }
    }
    return timing;
}
