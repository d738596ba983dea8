// An inference runtime, loaded from its shared library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "inputs.h"

// The runtime said no to a model.
class Refused : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

// What is said where memory lacks.
constexpr char kNoMemory[] = "the memory that it asks for is not there";

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
    // Fills the inputs once more, with this number in the place of whole ones that may be indices; says whether there
    // are such.
    virtual bool fill(int index) = 0;
    // One inference, nothing else; this is what is timed.
    virtual void invoke() = 0;
    // The first values of the first output of the last `invoke`.
    virtual std::vector<float> output(std::size_t values) = 0;
};

struct Model {
    const char *data;
    std::size_t size;
    int threads;
    std::string path;  // of a file that holds the model and nothing else, perhaps with its weights beside it; or empty
    std::vector<Feed> feeds;  // of every input; none: as the model says
    int index;                // what whole numbers of inputs are filled with
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

// Throws Refused where another number of inputs is fed than the model has.
void check_feeds(const Model &model, std::size_t inputs);

// Inferences in a profile that are left out.
constexpr int kProfileWarmupRuns = 5;

// Both runtimes cut every time of an operator down to whole microseconds, so that each may be lower by almost one, and
// no sum over inferences makes up for that: what takes 0.9 us reads 0 each time.
constexpr double kProfilerStepNs = 1000;
