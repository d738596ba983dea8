#include "model_list.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "exit_code.h"

namespace {

// TFLite computes on the weights where they are, so a slice must be aligned as its own file would be.
constexpr std::size_t kAlignment = 64;

bool is_id(const std::string &text) {
    return !text.empty() && text.size() <= 64 && std::all_of(text.begin(), text.end(), [](unsigned char c) {
        return c < 0x80 && (std::isalnum(c) || c == '_' || c == '-');
    });
}

bool parse_size(const std::string &text, std::size_t &value) {
    if (text.empty() || text.size() > 18) return false;  // 18 digits fit in 64 bits
    if (!std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c); })) return false;
    value = std::stoull(text);
    return true;
}

std::vector<std::string> split(const std::string &text, char separator, std::size_t parts) {
    std::vector<std::string> found;
    std::size_t start = 0;
    while (found.size() + 1 < parts) {
        const std::size_t end = text.find(separator, start);
        if (end == std::string::npos) break;
        found.push_back(text.substr(start, end - start));
        start = end + 1;
    }
    found.push_back(text.substr(start));
    return found;
}

constexpr std::size_t kMostInputs = 10'000;
constexpr std::size_t kLargestSize = 0x7fffffff;

bool parse_feeds(const std::string &text, std::vector<Feed> &feeds) {
    for (const std::string &one : split(text, ';', kMostInputs)) {
        const std::size_t equals = one.find('=');
        Feed feed;
        const std::string sizes = one.substr(0, equals);
        for (const std::string &digits : sizes.empty() ? std::vector<std::string>() : split(sizes, 'x', kMostInputs)) {
            std::size_t size = 0;
            if (!parse_size(digits, size) || size > kLargestSize) return false;
            feed.shape.push_back(static_cast<std::int64_t>(size));
        }
        if (equals != std::string::npos) {
            for (const std::string &number : split(one.substr(equals + 1), ',', kMostInputs)) {
                char *end = nullptr;
                const double value = std::strtod(number.c_str(), &end);
                if (number.empty() || *end != '\0' || !std::isfinite(value)) return false;
                feed.values.push_back(value);
            }
        }
        feeds.push_back(std::move(feed));
    }
    return true;
}

}  // namespace

MappedFile::MappedFile(const std::string &path) {
    const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) throw Fatal(kModelsUnusable, path + ": cannot be read: " + std::strerror(errno));
    struct stat status{};
    const bool is_file = fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
    size_ = static_cast<std::size_t>(status.st_size);
    if (is_file && size_ > 0) start_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    close(descriptor);
    if (!is_file) throw Fatal(kModelsUnusable, path + ": is no file");
    if (start_ == MAP_FAILED) throw Fatal(kModelsUnusable, path + ": cannot be mapped into memory");
}

MappedFile::~MappedFile() {
    if (start_ != nullptr) munmap(start_, size_);
}

std::vector<ModelEntry> read_model_list(const std::string &path) {
    const MappedFile list(path);
    const std::string text(list.data(), list.size());
    const std::string folder = path.substr(0, path.rfind('/') + 1);  // empty where there is no slash
    std::map<std::string, std::shared_ptr<const MappedFile>> files;
    std::vector<ModelEntry> models;
    for (std::size_t start = 0; start < text.size();) {
        const std::size_t end = text.find('\n', start);
        const std::string place = path + ", line " + std::to_string(models.size() + 1) + ": ";
        if (end == std::string::npos)
            throw Fatal(kModelsUnusable, place + "has no line end, so the list was cut short");
        const std::vector<std::string> fields = split(text.substr(start, end - start), '\t', 5);
        start = end + 1;
        std::size_t offset = 0, size = 0;
        if (fields.size() < 4 || !is_id(fields[0]) || !parse_size(fields[1], offset) || !parse_size(fields[2], size) ||
            fields[3].empty()) {
            throw Fatal(kModelsUnusable, place + "must be ID, OFFSET, SIZE and PATH with tabs between");
        }
        std::vector<Feed> feeds;
        if (fields.size() == 5 && !parse_feeds(fields[4], feeds)) {
            throw Fatal(kModelsUnusable, place + "what its inputs are fed with must be as in 1x3x224x224;1x8=0,1");
        }
        const std::string name = fields[3].front() == '/' ? fields[3] : folder + fields[3];
        std::shared_ptr<const MappedFile> &file = files[name];
        if (!file) file = std::make_shared<MappedFile>(name);
        if (offset % kAlignment != 0) throw Fatal(kModelsUnusable, place + "OFFSET must be a multiple of 64");
        if (offset >= file->size() || size > file->size() - offset) {
            throw Fatal(kModelsUnusable, place + "OFFSET and SIZE lead beyond the end of " + name + ", which has " +
                                             std::to_string(file->size()) + " bytes");
        }
        const bool alone = offset == 0 && size == 0;
        models.push_back({fields[0], file, file->data() + offset, size == 0 ? file->size() - offset : size,
                          alone ? name : "", std::move(feeds)});
    }
    return models;
}
