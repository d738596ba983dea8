#include "options.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <set>

#include "exit_code.h"

namespace {

[[noreturn]] void usage(const std::string &message) {
    throw Fatal(kUsage, message +
                            "; usage: bpnas-runner --runtime onnxruntime|tflite --library FILE (--probe | --list FILE "
                            "--warmup-runs N --warmup-seconds S --runs N --seconds S --sample-ms MS --threads N "
                            "--timeout-seconds S [--first N] [--max-memory BYTES|usual] [--affinity HEXMASK] "
                            "[--watch NAME=PATH=SCALE]... "
                            "[--watch-text NAME=PATH]... "
                            "[--hot-file PATH[=SCALE] --hot-limit X] [--cool-seconds S] "
                            "[--sentinel-limit RATIO [--sentinel-baseline NS]] [--print-output N] [--profile])");
}

double number(const std::string &option, const std::string &text, double low, double high) {
    char *end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    if (end == text.c_str() || *end != '\0' || !(value >= low && value <= high)) {
        char range[80];
        std::snprintf(range, sizeof range, " must be a number from %g to %g, not '", low, high);
        usage(option + range + text + "'");
    }
    return value;
}

std::int64_t whole_number(const std::string &option, const std::string &text, double low, double high) {
    const double value = number(option, text, low, high);
    if (value != std::floor(value)) usage(option + " must be a whole number, not '" + text + "'");
    return static_cast<std::int64_t>(value);
}

double scale(const std::string &option, const std::string &text) { return number(option, text, -1e12, 1e12); }

WatchedFile watched_file(const std::string &option, const std::string &text) {
    const std::size_t first = text.find('='), last = text.rfind('=');
    if (first == std::string::npos || first == last || first == 0)
        usage(option + " must be NAME=PATH=SCALE, not '" + text + "'");
    return {text.substr(0, first), text.substr(first + 1, last - first - 1), scale(option, text.substr(last + 1))};
}

WatchedWord watched_word(const std::string &option, const std::string &text) {
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == text.size())
        usage(option + " must be NAME=PATH, not '" + text + "'");
    return {text.substr(0, equals), text.substr(equals + 1)};
}

}  // namespace

Options parse_options(int argc, char **argv) {
    Options options;
    std::string hot_file;
    std::optional<double> hot_limit;
    std::string option, text;  // the ones being parsed

    const std::map<std::string, std::function<void()>> flags = {
        {"--probe", [&] { options.probe = true; }},
        {"--profile", [&] { options.profile = true; }},
    };
    const std::map<std::string, std::function<void()>> valued = {
        {"--runtime", [&] { options.runtime = text; }},
        {"--library", [&] { options.library = text; }},
        {"--list", [&] { options.list = text; }},
        {"--first", [&] { options.first = whole_number(option, text, 0, 1e9); }},
        {"--warmup-runs", [&] { options.timing.warmup_runs = whole_number(option, text, 0, 1e6); }},
        {"--warmup-seconds", [&] { options.timing.warmup_seconds = number(option, text, 0, 3600); }},
        {"--runs", [&] { options.timing.runs = whole_number(option, text, 1, 1e6); }},
        {"--seconds", [&] { options.timing.seconds = number(option, text, 0, 3600); }},
        {"--sample-ms", [&] { options.timing.sample_ms = number(option, text, 0, 1e4); }},
        {"--threads", [&] { options.threads = whole_number(option, text, 1, 256); }},
        {"--timeout-seconds", [&] { options.timeout_seconds = number(option, text, 0.001, 86400); }},
        {"--max-memory",
         [&] {
             options.usual_memory = text == "usual";
             if (!options.usual_memory) options.max_memory = number(option, text, 0, 1e15);
         }},
        {"--affinity", [&] { options.affinity = text; }},
        {"--watch", [&] { options.watches.push_back(watched_file(option, text)); }},
        {"--watch-text", [&] { options.watched_words.push_back(watched_word(option, text)); }},
        {"--hot-file", [&] { hot_file = text; }},
        {"--hot-limit", [&] { hot_limit = scale(option, text); }},
        {"--cool-seconds", [&] { options.cool_seconds = number(option, text, 0, 86400); }},
        {"--sentinel-limit", [&] { options.sentinel_limit = number(option, text, 1, 1e6); }},
        {"--sentinel-baseline", [&] { options.sentinel_baseline_ns = number(option, text, 0, 1e12); }},
        {"--print-output", [&] { options.print_output = whole_number(option, text, 0, 1e6); }},
    };

    const std::set<std::string> repeatable = {"--watch", "--watch-text"};
    std::set<std::string> given;
    for (int i = 1; i < argc; ++i) {
        option = argv[i];
        if (!given.insert(option).second && repeatable.count(option) == 0) usage(option + " is given twice");
        if (const auto flag = flags.find(option); flag != flags.end()) {
            flag->second();
        } else if (const auto known = valued.find(option); known == valued.end()) {
            usage("option '" + option + "' is unknown");
        } else if (++i == argc) {
            usage(option + " needs a value");
        } else {
            text = argv[i];
            known->second();
        }
    }

    std::vector<std::string> needed = {"--runtime", "--library"};
    if (!options.probe) {
        // What a number was measured with is always said, never a default of this program.
        for (const char *name : {"--list", "--warmup-runs", "--warmup-seconds", "--runs", "--seconds", "--sample-ms",
                                 "--threads", "--timeout-seconds"}) {
            needed.emplace_back(name);
        }
    }
    for (const std::string &name : needed) {
        if (given.count(name) == 0) usage(name + " is missing");
    }
    if (given.count("--hot-file") != given.count("--hot-limit")) usage("--hot-file and --hot-limit go together");
    if (hot_limit) {
        const std::size_t equals = hot_file.rfind('=');
        const double factor = equals == std::string::npos ? 1 : scale("--hot-file", hot_file.substr(equals + 1));
        options.hot_gate = HotGate{{"hot", hot_file.substr(0, equals), factor}, *hot_limit};
    }
    return options;
}
