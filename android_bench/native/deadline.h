// A time limit that holds regardless of what the runtime is doing.
#pragma once

#include <string>

// From construction to destruction: when `seconds` have passed, `last_words` are written to `descriptor` and the
// process ends with exit code 124. One at a time.
class Deadline {
public:
    Deadline(double seconds, int descriptor, std::string last_words);
    ~Deadline();
    Deadline(const Deadline &) = delete;
    Deadline &operator=(const Deadline &) = delete;

private:
    const std::string last_words_;
};
