// Answers: one JSON object a line, each closed by a checksum of what is before it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

using Conditions = std::vector<std::pair<std::string, std::variant<double, std::string>>>;

class JsonLine {
public:
    JsonLine &add(const char *name, const std::string &text);
    JsonLine &add(const char *name, std::int64_t number);
    JsonLine &add(const char *name, double number);
    JsonLine &add(const char *name, const std::vector<std::int64_t> &numbers);
    JsonLine &add(const char *name, const std::vector<float> &numbers);
    JsonLine &add(const char *name, const Conditions &conditions);
    // `json` must be JSON already.
    JsonLine &add_json(const char *name, const std::string &json);

    // The whole line, with checksum and line end.
    std::string finished() const;

private:
    void name_next(const char *name);

    std::string text_ = "{";
};

// `text` on one line, without control characters, in valid UTF-8, and cut to `limit` bytes.
std::string one_line(const std::string &text, std::size_t limit = 500);

// `text` as a JSON string, quotes included.
std::string json_string(const std::string &text);

// Takes standard output over for answers alone: anything else that prints there is led to standard error.
class Answers {
public:
    Answers();

    // Writes the whole line at once; ends the program if nobody reads any more.
    void write(const JsonLine &line) const;

    int descriptor() const { return descriptor_; }

private:
    int descriptor_;
};
