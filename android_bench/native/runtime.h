// An inference runtime, loaded from its shared library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

// The runtime said no to a model.
class Refused : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

struct OperatorTime {
    std::string name;
    std::string type;
    double ns;             // of one inference, without other operators within it; median
    double resolution_ns;  // the time is `ns` or more, and less than that more
    double p10_ns, p90_ns; // of `ns`: a tenth of the inferences is below, or above
};

struct Profile {
    std::vector<OperatorTime> operators;
    double inference_ns;  // of one inference while it is profiled, median, by this program's own clock
    std::size_t runs;     // inferences that count
};

// A loaded model whose inputs are filled.
class Session {
public:
    virtual ~Session() = default;
    // One inference, nothing else; this is what is timed.
    virtual void invoke() = 0;
    // The first values of the first output of the last `invoke`.
    virtual std::vector<float> output(std::size_t values) = 0;
};

struct Model {
    const char *data;
    std::size_t size;
    int threads;
};

class Runtime {
public:
    virtual ~Runtime() = default;
    virtual std::string version() const = 0;
    // Throws Refused.
    virtual std::unique_ptr<Session> open(const Model &model) = 0;
    // In a session of its own, which is slower than one that is not watched; files that it takes go to `folder`. Throws
    // Refused also where the library cannot do it.
    virtual Profile profile(const Model &model, const std::string &folder) = 0;
};

// `name` is onnxruntime or tflite. Throws Fatal(kRuntimeUnusable), or Fatal(kUsage) for another name.
std::unique_ptr<Runtime> load_runtime(const std::string &name, const std::string &library);

std::unique_ptr<Runtime> load_onnxruntime(const std::string &library);
std::unique_ptr<Runtime> load_tflite(const std::string &library);

// A function of unknown type: becomes the type of any function pointer it is assigned to.
class AnyFunction {
public:
    explicit AnyFunction(const void *address) : address_(address) {}
    template <typename Function>
    operator Function *() const {
        return reinterpret_cast<Function *>(const_cast<void *>(address_));
    }

private:
    const void *address_;
};

class SharedLibrary {
public:
    explicit SharedLibrary(const std::string &path);
    AnyFunction function(const char *name) const;
    // Null where the library lacks it.
    AnyFunction optional_function(const char *name) const;

private:
    std::string path_;
    void *handle_;  // never closed: runtimes have threads of their own
};

// The same inputs on every machine: x = 1664525 x + 1013904223 mod 2^32 from 1 on, taken as a signed number over 2^31.
void fill_input(float *values, std::size_t count);

Refused not_float32(const std::string &input);

// Inferences in a profile that are left out.
constexpr int kProfileWarmupRuns = 5;

// Both runtimes cut every time of an operator down to whole microseconds, so that each may be lower by almost one, and
// no sum over inferences makes up for that: what takes 0.9 us reads 0 each time.
constexpr double kProfilerStepNs = 1000;
