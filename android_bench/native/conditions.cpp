#include "conditions.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

#include <fcntl.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include "exit_code.h"
#include "timing.h"

namespace {

// Multiply and add, each waiting for the one before: 6 to 8 cycles a step, so a third of a millisecond at 2 GHz.
constexpr int kSentinelSteps = 100'000;
constexpr int kSentinelPasses = 3;
constexpr int kMostSentinelPasses = 100;

constexpr std::size_t kLongestWord = 32;

double sentinel_pass_ns() {
    volatile double seed = 0.5;  // so that nothing is computed by the compiler
    double x = seed;
    const std::int64_t start = now_ns();
    for (int i = 0; i < kSentinelSteps; ++i) x = x * 0.999999 + 0.000001;
    seed = x;
    return static_cast<double>(now_ns() - start);
}

// The beginning of a file, without the white space after it; empty where it cannot be read or is longer than any
// that is watched.
std::string read_short(const std::string &path) {
    const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) return "";
    char bytes[64];
    const ssize_t length = read(descriptor, bytes, sizeof bytes);
    close(descriptor);
    if (length <= 0 || length == static_cast<ssize_t>(sizeof bytes)) return "";
    const std::string text(bytes, static_cast<std::size_t>(length));
    return text.substr(0, text.find_last_not_of(" \t\r\n") + 1);
}

void sleep_one_second() {
    timespec left{1, 0};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

}  // namespace

std::optional<double> WatchedFile::read() const {
    const std::string text = read_short(path);
    char *end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    if (text.empty() || end != text.c_str() + text.size()) return {};
    return std::isfinite(value * scale) ? std::optional<double>(value * scale) : std::nullopt;
}

std::optional<std::string> WatchedWord::read() const {
    const std::string text = read_short(path);
    const char *const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    const bool is_word = !text.empty() && text.size() <= kLongestWord && text.find_first_not_of(letters) == text.npos;
    return is_word ? std::optional<std::string>(text) : std::nullopt;
}

std::map<std::string, std::string> read_words(const std::vector<WatchedWord> &files) {
    std::map<std::string, std::vector<std::string>> found;
    for (const WatchedWord &file : files) {
        const std::optional<std::string> word = file.read();
        if (!word) continue;
        std::vector<std::string> &words = found[file.name];
        if (std::find(words.begin(), words.end(), *word) == words.end()) words.push_back(*word);
    }
    std::map<std::string, std::string> joined;
    for (const auto &[name, words] : found) {
        for (const std::string &word : words) joined[name] += (joined[name].empty() ? "" : "+") + word;
    }
    return joined;
}

void set_affinity(const std::string &mask) {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    const std::string digits = mask.rfind("0x", 0) == 0 ? mask.substr(2) : mask;
    bool right = !digits.empty() && digits.size() * 4 <= CPU_SETSIZE;
    for (std::size_t i = 0; right && i < digits.size(); ++i) {
        const char text[] = {digits[digits.size() - 1 - i], '\0'};
        char *end = nullptr;
        const unsigned long digit = std::strtoul(text, &end, 16);
        right = end != text;
        for (std::size_t bit = 0; bit < 4; ++bit) {
            if (digit >> bit & 1) CPU_SET(i * 4 + bit, &cores);
        }
    }
    if (!right) throw Fatal(kUsage, "--affinity must be a hexadecimal mask of cores, not '" + mask + "'");
    if (sched_setaffinity(0, sizeof cores, &cores) != 0) {
        throw Fatal(kAffinityUnusable, "the affinity " + mask + " cannot be set: " + std::strerror(errno) +
                                           "; give a mask of cores that this machine has and this user may use");
    }
}

std::string affinity() {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    if (sched_getaffinity(0, sizeof cores, &cores) != 0) return "";
    std::string digits;
    for (std::size_t i = CPU_SETSIZE; i > 0; i -= 4) {
        int digit = 0;
        for (std::size_t bit = 1; bit <= 4; ++bit) digit = digit << 1 | (CPU_ISSET(i - bit, &cores) ? 1 : 0);
        if (digit != 0 || !digits.empty()) digits += "0123456789abcdef"[digit];
    }
    return digits;
}

double sentinel_ns() {
    // A core that slept runs slowly at first, which is not throttling: continue while it is still getting faster.
    double best = std::numeric_limits<double>::infinity();
    for (int pass = 0, since_best = 0; pass < kMostSentinelPasses && since_best < kSentinelPasses;
         ++pass, ++since_best) {
        const double time = sentinel_pass_ns();
        if (time < best * 0.99) since_best = 0;
        best = std::min(best, time);
    }
    return best;
}

void cool_down(double seconds, const std::function<std::optional<double>()> &too_high,
               const std::function<void(double)> &report) {
    const std::int64_t start = now_ns();
    for (int waited = 0;; ++waited) {
        const std::optional<double> value = too_high();
        if (!value) return;
        if (waited % 5 == 0) report(*value);
        if (static_cast<double>(now_ns() - start) / 1e9 + 1 > seconds) return;
        sleep_one_second();
    }
}
