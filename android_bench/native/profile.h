// Times of operators over the inferences of a profile.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "runtime.h"

// Of one operator in one inference, as often as it ran: the time is `ns` or more, and less than `resolution_ns` more.
struct OperatorRun {
    double ns = 0;
    double resolution_ns = 0;
};

// What an operator took by itself. A time that a profiler tells in whole microseconds is cut down to them.
class OwnTime {
public:
    // The operator took `ns` in all, or less than `resolution_ns` more.
    void add(double ns, double resolution_ns) { low_ += ns, high_ += ns + resolution_ns; }
    // Of these, others within it took their part.
    void take_off(double ns, double resolution_ns) { low_ -= ns + resolution_ns, high_ -= ns; }
    OperatorRun run() const;

private:
    double low_ = 0, high_ = 0;
};

// Operators by a key that tells them apart, in the order in which they were first seen, over inferences.
class OperatorTable {
public:
    // Another inference of which nothing is known yet.
    void begin_run() { ++runs_; }
    // An operator that ran in the current inference; what it took before in it is added.
    void add(const std::string &key, const std::string &name, const std::string &type, const OperatorRun &run);
    // Medians and 10th and 90th percentiles over the inferences; where an operator did not run it took nothing.
    std::vector<OperatorTime> operators() const;
    std::size_t runs() const { return runs_; }

private:
    struct Entry {
        std::string name, type;
        std::map<std::size_t, OperatorRun> runs;  // by the number of the inference
    };

    std::size_t runs_ = 0;
    std::map<std::string, std::size_t> places_;
    std::vector<Entry> entries_;
};

// The p-th part of the values, between the two next to it; 0 of none.
double quantile(std::vector<double> values, double p);

// Inferences that are left out, and then as many as it takes; returns the median of the latter, by this program's clock.
double profile_inferences(Session &session, const std::function<void(bool counts)> &before_each = nullptr);
