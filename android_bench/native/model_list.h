// The models to time: a text file of slices of other files.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "inputs.h"

// A file in memory, for as long as this lives.
class MappedFile {
public:
    explicit MappedFile(const std::string &path);
    ~MappedFile();
    MappedFile(const MappedFile &) = delete;
    MappedFile &operator=(const MappedFile &) = delete;

    const char *data() const { return static_cast<const char *>(start_); }
    std::size_t size() const { return size_; }

private:
    void *start_ = nullptr;
    std::size_t size_ = 0;
};

struct ModelEntry {
    std::string id;
    std::shared_ptr<const MappedFile> file;
    const char *data;
    std::size_t size;
    std::string path;         // where the file holds this model alone, else empty
    std::vector<Feed> feeds;  // of every input; none: as the model says
};

// Reads a list of lines `ID<TAB>OFFSET<TAB>SIZE<TAB>PATH[<TAB>FEEDS]`, with PATH relative to the list's folder and SIZE
// 0 for "to the end", and maps every file. FEEDS has `SIZExSIZE...[=VALUE,VALUE,...]` for every input, with `;` between.
// Throws Fatal(kModelsUnusable) that names the line.
std::vector<ModelEntry> read_model_list(const std::string &path);
