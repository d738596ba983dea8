// How the program ends, as a number and a sentence.
#pragma once

#include <stdexcept>
#include <string>

enum ExitCode : int {
    kDone = 0,
    kUsage = 2,
    kRuntimeUnusable = 3,  // the library cannot be loaded, or is not what it should be
    kModelsUnusable = 4,   // the list or a file that it names cannot be read, or is wrong
    kAffinityUnusable = 5,
    kNobodyReads = 6,
    kTimeLimit = 124,  // as timeout(1)
};

// Ends the program; the message is one sentence.
class Fatal : public std::runtime_error {
public:
    Fatal(ExitCode code, const std::string &message) : std::runtime_error(message), code(code) {}
    const ExitCode code;
};
