#include "profile.h"

#include <algorithm>
#include <cmath>

#include "timing.h"

namespace {

// On a machine that does other things, too, a median needs many inferences and some time; large models get less.
constexpr std::size_t kLeastRuns = 10, kUsualRuns = 50, kMostRuns = 1000;
constexpr double kUsualNs = 1e9, kMostNs = 20e9;

bool is_enough(std::size_t runs, double ns) {
    if (runs >= kMostRuns || (runs >= kLeastRuns && ns >= kMostNs)) return true;
    return runs >= kUsualRuns && ns >= kUsualNs;
}

}  // namespace

OperatorRun OwnTime::run() const {
    const double low = std::max(0.0, low_);
    return {low, std::max(high_ - low, 1.0)};
}

void OperatorTable::add(const std::string &key, const std::string &name, const std::string &type,
                        const OperatorRun &run) {
    const auto [found, is_new] = places_.try_emplace(key, entries_.size());
    if (is_new) entries_.push_back({name, type, {}});
    OperatorRun &so_far = entries_[found->second].runs[runs_];
    so_far.ns += run.ns;
    so_far.resolution_ns += run.resolution_ns;
}

std::vector<OperatorTime> OperatorTable::operators() const {
    std::vector<OperatorTime> found;
    for (const Entry &entry : entries_) {
        std::vector<double> low(runs_, 0.0), high(runs_, 0.0);
        for (const auto &[number, run] : entry.runs) {
            low[number - 1] = run.ns;
            high[number - 1] = run.ns + run.resolution_ns;
        }
        const double ns = quantile(low, 0.5);
        found.push_back(
            {entry.name, entry.type, ns, quantile(high, 0.5) - ns, quantile(low, 0.1), quantile(low, 0.9)});
    }
    return found;
}

double quantile(std::vector<double> values, double p) {
    if (values.empty()) return 0;
    std::sort(values.begin(), values.end());
    const double place = p * static_cast<double>(values.size() - 1);
    const auto below = static_cast<std::size_t>(place);
    const double above = values[std::min(below + 1, values.size() - 1)];
    return values[below] + (place - std::floor(place)) * (above - values[below]);
}

double profile_inferences(Session &session, const std::function<void(bool counts)> &before_each) {
    for (int i = 0; i < kProfileWarmupRuns; ++i) {
        if (before_each) before_each(false);
        session.invoke();
    }
    std::vector<double> times;
    double all_ns = 0;
    while (!is_enough(times.size(), all_ns)) {
        if (before_each) before_each(true);
        const std::int64_t start = now_ns();
        session.invoke();
        times.push_back(static_cast<double>(now_ns() - start));
        all_ns += times.back();
    }
    return quantile(times, 0.5);
}
