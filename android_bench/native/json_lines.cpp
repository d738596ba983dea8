#include "json_lines.h"

#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdio>

#include <fcntl.h>
#include <unistd.h>

#include "exit_code.h"

namespace {

// zlib's CRC-32.
std::uint32_t crc32(const std::string &bytes) {
    std::uint32_t crc = 0xffffffffu;
    static const std::vector<std::uint32_t> table = [] {
        std::vector<std::uint32_t> made(256);
        for (std::uint32_t i = 0; i < 256; ++i) {
            std::uint32_t value = i;
            for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ (value & 1 ? 0xedb88320u : 0u);
            made[i] = value;
        }
        return made;
    }();
    for (const unsigned char byte : bytes) crc = (crc >> 8) ^ table[(crc ^ byte) & 0xff];
    return ~crc;
}

std::string formatted(const char *format, double value) {
    if (!std::isfinite(value)) return "null";
    char text[40];
    std::snprintf(text, sizeof text, format, value);
    return text;
}

std::string json_text(std::int64_t value) { return std::to_string(value); }
std::string json_text(float value) { return formatted("%.9g", value); }  // 9 digits give a float back exactly

template <typename T>
std::string json_array(const std::vector<T> &values) {
    std::string text = "[";
    for (const T &value : values) {
        if (text.size() > 1) text += ',';
        text += json_text(value);
    }
    return text + "]";
}

// The length of the valid UTF-8 sequence at `at`, 0 if there is none.
std::size_t utf8_length(const std::string &text, std::size_t at) {
    const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0; };
    const int first = byte(at);
    if (first < 0x80) return 1;
    std::size_t length = 0;
    if (first >= 0xc2 && first < 0xe0) length = 2;
    if (first >= 0xe0 && first < 0xf0) length = 3;
    if (first >= 0xf0 && first < 0xf5) length = 4;
    for (std::size_t i = 1; i < length; ++i) {
        if ((byte(at + i) & 0xc0) != 0x80) return 0;
    }
    const int second = byte(at + 1);
    const bool overlong = (first == 0xe0 && second < 0xa0) || (first == 0xf0 && second < 0x90);
    const bool beyond = (first == 0xed && second >= 0xa0) || (first == 0xf4 && second >= 0x90);
    return overlong || beyond ? 0 : length;
}

}  // namespace

void JsonLine::name_next(const char *name) {
    if (text_.size() > 1) text_ += ',';
    text_ += json_string(name) + ":";
}

JsonLine &JsonLine::add_json(const char *name, const std::string &json) {
    name_next(name);
    text_ += json;
    return *this;
}

JsonLine &JsonLine::add(const char *name, const std::string &text) { return add_json(name, json_string(text)); }
JsonLine &JsonLine::add(const char *name, std::int64_t number) { return add_json(name, json_text(number)); }
JsonLine &JsonLine::add(const char *name, double number) { return add_json(name, formatted("%.10g", number)); }

JsonLine &JsonLine::add(const char *name, const std::vector<std::int64_t> &numbers) {
    return add_json(name, json_array(numbers));
}

JsonLine &JsonLine::add(const char *name, const std::vector<float> &numbers) {
    return add_json(name, json_array(numbers));
}

JsonLine &JsonLine::add(const char *name, const Conditions &conditions) {
    std::string json = "{";
    for (const auto &[key, value] : conditions) {
        if (json.size() > 1) json += ',';
        const std::string *const word = std::get_if<std::string>(&value);
        json += json_string(key) + ":" + (word ? json_string(*word) : formatted("%.10g", std::get<double>(value)));
    }
    return add_json(name, json + "}");
}

std::string JsonLine::finished() const {
    char end[32];
    std::snprintf(end, sizeof end, ",\"crc32\":\"%08x\"}\n", crc32(text_));
    return text_ + end;
}

std::string one_line(const std::string &text, std::size_t limit) {
    std::string line;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t length = utf8_length(text, at);
        const unsigned char first = static_cast<unsigned char>(text[at]);
        std::string next = length == 0 ? "?" : text.substr(at, length);
        if (first < 0x20 || first == 0x7f) next = line.empty() || line.back() == ' ' ? "" : " ";
        if (line.size() + next.size() > limit) break;
        line += next;
        at += length == 0 ? 1 : length;
    }
    while (!line.empty() && line.back() == ' ') line.pop_back();
    return line;
}

std::string json_string(const std::string &text) {
    std::string json = "\"";
    for (const char c : one_line(text, text.size())) {
        if (c == '"' || c == '\\') json += '\\';
        json += c;
    }
    return json + "\"";
}

Answers::Answers() : descriptor_(fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3)) {
    if (descriptor_ < 0) throw Fatal(kNobodyReads, "standard output is closed: nobody would read the answers");
    dup2(STDERR_FILENO, STDOUT_FILENO);
    std::signal(SIGPIPE, SIG_IGN);  // write() says so instead
}

void Answers::write(const JsonLine &line) const {
    const std::string bytes = line.finished();
    for (std::size_t done = 0; done < bytes.size();) {
        const ssize_t written = ::write(descriptor_, bytes.data() + done, bytes.size() - done);
        if (written > 0) {
            done += static_cast<std::size_t>(written);
        } else if (errno != EINTR) {
            throw Fatal(kNobodyReads, "an answer could not be written: nobody reads any more");
        }
    }
}
