// What the inputs of a model are filled with, the same on every machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

// What one input is told to be: its shape, and values that are repeated over its elements (none: as its type asks).
struct Feed {
    std::vector<std::int64_t> shape;
    std::vector<double> values;
};

enum class ElementType {
    kFloat16,
    kBfloat16,
    kFloat32,
    kFloat64,
    kComplex64,
    kInt8,
    kUint8,
    kInt16,
    kUint16,
    kInt32,
    kUint32,
    kInt64,
    kUint64,
    kBool,
    kString,
    kOther,
};

// Bytes of one element; 0 where it has no fixed size.
std::size_t element_size(ElementType type);

// Whether it may be an index, a length or a count: whole numbers that are not quantised ones.
bool is_index(ElementType type, bool quantised);

// Fills `count` elements. Whole numbers that may be indices become `index`.
void fill_input(void *data, std::size_t count, ElementType type, bool quantised, const std::vector<double> &values,
                int index);

// The one text that inputs of texts hold.
constexpr char kText[] = "bpnas";

// What is said of an input that cannot be filled.
std::string not_fillable(const std::string &input);
