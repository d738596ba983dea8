#include "inputs.h"

#include <cstring>

namespace {

// x = 1664525 x + 1013904223 mod 2^32, from x = 1 on.
class Noise {
public:
    std::uint32_t next() { return x_ = 1664525u * x_ + 1013904223u; }
    // The same as a signed number over 2^31.
    double next_share() { return static_cast<double>(static_cast<std::int32_t>(next())) / 2147483648.0; }

private:
    std::uint32_t x_ = 1;
};

std::uint32_t bits_of(float value) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// IEEE 754's binary16, rounded to nearest, ties to even.
std::uint16_t half(double number) {
    const std::uint32_t bits = bits_of(static_cast<float>(number));
    const std::uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);   // no number
    if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // too large
    const auto rounded = [](std::uint32_t value, std::uint32_t shift) {
        const std::uint32_t rest = value & ((1u << shift) - 1), middle = 1u << (shift - 1);
        const std::uint32_t whole = value >> shift;
        return whole + (rest > middle || (rest == middle && (whole & 1)) ? 1u : 0u);
    };
    if (magnitude >= 0x38800000u) return static_cast<std::uint16_t>(sign | rounded(magnitude - 0x38000000u, 13));
    const std::uint32_t exponent = magnitude >> 23;
    if (exponent < 102) return static_cast<std::uint16_t>(sign);  // too small
    return static_cast<std::uint16_t>(sign | rounded((magnitude & 0x7fffffu) | 0x800000u, 126 - exponent));
}

std::uint16_t brain_half(double number) {
    return static_cast<std::uint16_t>(bits_of(static_cast<float>(number)) >> 16);
}

template <typename T>
void put(void *data, std::size_t at, T value) {
    std::memcpy(static_cast<char *>(data) + at * sizeof value, &value, sizeof value);
}

// `number` as one element of the type.
void put_number(void *data, std::size_t at, ElementType type, double number) {
    switch (type) {
        case ElementType::kFloat16: return put(data, at, half(number));
        case ElementType::kBfloat16: return put(data, at, brain_half(number));
        case ElementType::kFloat32: return put(data, at, static_cast<float>(number));
        case ElementType::kFloat64: return put(data, at, number);
        case ElementType::kInt8: return put(data, at, static_cast<std::int8_t>(number));
        case ElementType::kUint8: return put(data, at, static_cast<std::uint8_t>(number));
        case ElementType::kInt16: return put(data, at, static_cast<std::int16_t>(number));
        case ElementType::kUint16: return put(data, at, static_cast<std::uint16_t>(number));
        case ElementType::kInt32: return put(data, at, static_cast<std::int32_t>(number));
        case ElementType::kUint32: return put(data, at, static_cast<std::uint32_t>(number));
        case ElementType::kInt64: return put(data, at, static_cast<std::int64_t>(number));
        case ElementType::kUint64: return put(data, at, static_cast<std::uint64_t>(number));
        case ElementType::kBool: return put(data, at, static_cast<std::uint8_t>(number != 0));
        default: return;
    }
}

bool is_float(ElementType type) {
    return type == ElementType::kFloat16 || type == ElementType::kBfloat16 || type == ElementType::kFloat32 ||
           type == ElementType::kFloat64;
}

}  // namespace

std::size_t element_size(ElementType type) {
    switch (type) {
        case ElementType::kInt8:
        case ElementType::kUint8:
        case ElementType::kBool: return 1;
        case ElementType::kFloat16:
        case ElementType::kBfloat16:
        case ElementType::kInt16:
        case ElementType::kUint16: return 2;
        case ElementType::kFloat32:
        case ElementType::kInt32:
        case ElementType::kUint32: return 4;
        case ElementType::kFloat64:
        case ElementType::kComplex64:
        case ElementType::kInt64:
        case ElementType::kUint64: return 8;
        default: return 0;
    }
}

bool is_index(ElementType type, bool quantised) {
    switch (type) {
        case ElementType::kInt16:
        case ElementType::kUint16: return !quantised;
        case ElementType::kInt32:
        case ElementType::kUint32:
        case ElementType::kInt64:
        case ElementType::kUint64: return true;
        default: return false;
    }
}

void fill_input(void *data, std::size_t count, ElementType type, bool quantised, const std::vector<double> &values,
                int index) {
    Noise noise;
    for (std::size_t i = 0; i < count; ++i) {
        if (!values.empty()) {
            put_number(data, i, type, values[i % values.size()]);
        } else if (is_float(type)) {
            put_number(data, i, type, noise.next_share());
        } else if (type == ElementType::kComplex64) {
            put(data, 2 * i, static_cast<float>(noise.next_share()));
            put(data, 2 * i + 1, static_cast<float>(noise.next_share()));
        } else if (is_index(type, quantised)) {
            put_number(data, i, type, index);
        } else if (element_size(type) == 2) {
            put(data, i, static_cast<std::uint16_t>(noise.next() >> 16));
        } else if (type == ElementType::kBool) {
            put(data, i, std::uint8_t{0});
        } else {
            put(data, i, static_cast<std::uint8_t>(noise.next() >> 24));
        }
    }
}

std::string not_fillable(const std::string &input) {
    return "input '" + input + "' is of a type that cannot be filled; export the model with inputs of plain numbers";
}
