// The state that a model is timed in: where it runs, how hot it is, how fast the core is right now.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "json_lines.h"

// A file of the kernel's that holds one number.
struct WatchedFile {
    std::string name;
    std::string path;
    double scale;

    // The number times `scale`; nothing where there is none.
    std::optional<double> read() const;
};

// A file of the kernel's that holds one word, as the frequency governor.
struct WatchedWord {
    std::string name;
    std::string path;

    // The word: 1 to 32 letters, digits, `_` and `-`; nothing where there is none.
    std::optional<std::string> read() const;
};

// What the files say, by their names: where several have one name, their words in order, joined by `+`, none twice.
std::map<std::string, std::string> read_words(const std::vector<WatchedWord> &files);

struct HotGate {
    WatchedFile file;
    double limit;
};

// Pins this process, and every thread that it starts from now on, to the cores of a hexadecimal mask.
void set_affinity(const std::string &mask);

// What the kernel says that the mask is.
std::string affinity();

// Nanoseconds of a fixed piece of arithmetic on this core, the quickest of several times.
double sentinel_ns();

// While `too_high` gives a number, waits, at most `seconds`, and tells `report` of that number every 5 s.
void cool_down(double seconds, const std::function<std::optional<double>()> &too_high,
               const std::function<void(double)> &report);
