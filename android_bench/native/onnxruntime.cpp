// ONNX Runtime through its C API.
//
// The library exports one function; all others are in the table `struct OrtApi` that it gives out. Members are only
// ever appended to that table, none moves or changes, so a member's index is as stable as a name: the few that are used
// here are listed with theirs, counted in onnxruntime_c_api.h, and no header is needed.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>

#include <unistd.h>

#include "exit_code.h"
#include "onnxruntime_profile.h"
#include "runtime.h"
#include "timing.h"

namespace {

struct OrtStatus;
struct OrtEnv;
struct OrtSessionOptions;
struct OrtSession;
struct OrtRunOptions;
struct OrtMemoryInfo;
struct OrtAllocator;
struct OrtIoBinding;
struct OrtValue;
struct OrtTypeInfo;
struct OrtTensorInfo;

struct OrtApiBase {
    const void *const *(*GetApi)(std::uint32_t version);
    const char *(*GetVersionString)();
};

constexpr std::uint32_t kApiVersion = 7;  // the first with everything below is 5; older libraries give no table for it
constexpr int kLogErrors = 3;
constexpr int kFloat = 1;
constexpr int kArenaAllocator = 1;  // as the library's own bindings ask for
constexpr int kDefaultMemory = 0;

struct OrtApi {
    explicit OrtApi(const void *const *table) : table(table) {}
    AnyFunction at(std::size_t index) const { return AnyFunction(table[index]); }

    const void *const *table;
    const char *(*GetErrorMessage)(const OrtStatus *) = at(2);
    OrtStatus *(*CreateEnv)(int log_level, const char *name, OrtEnv **) = at(3);
    OrtStatus *(*CreateSession)(const OrtEnv *, const char *path, const OrtSessionOptions *, OrtSession **) = at(7);
    OrtStatus *(*CreateSessionFromArray)(const OrtEnv *, const void *, std::size_t, const OrtSessionOptions *,
                                         OrtSession **) = at(8);
    OrtStatus *(*CreateSessionOptions)(OrtSessionOptions **) = at(10);
    OrtStatus *(*EnableProfiling)(OrtSessionOptions *, const char *prefix) = at(14);
    OrtStatus *(*SetSessionLogSeverityLevel)(OrtSessionOptions *, int) = at(22);
    OrtStatus *(*SetIntraOpNumThreads)(OrtSessionOptions *, int) = at(24);
    OrtStatus *(*SetInterOpNumThreads)(OrtSessionOptions *, int) = at(25);
    OrtStatus *(*SessionGetInputCount)(const OrtSession *, std::size_t *) = at(30);
    OrtStatus *(*SessionGetOutputCount)(const OrtSession *, std::size_t *) = at(31);
    OrtStatus *(*SessionGetInputTypeInfo)(const OrtSession *, std::size_t, OrtTypeInfo **) = at(33);
    OrtStatus *(*SessionGetInputName)(const OrtSession *, std::size_t, OrtAllocator *, char **) = at(36);
    OrtStatus *(*SessionGetOutputName)(const OrtSession *, std::size_t, OrtAllocator *, char **) = at(37);
    OrtStatus *(*CreateRunOptions)(OrtRunOptions **) = at(39);
    OrtStatus *(*CreateTensorAsOrtValue)(OrtAllocator *, const std::int64_t *, std::size_t, int type,
                                         OrtValue **) = at(48);
    OrtStatus *(*GetTensorMutableData)(OrtValue *, void **) = at(51);
    OrtStatus *(*FillStringTensor)(OrtValue *, const char *const *, std::size_t) = at(52);
    OrtStatus *(*CastTypeInfoToTensorInfo)(const OrtTypeInfo *, const OrtTensorInfo **) = at(55);
    OrtStatus *(*GetTensorElementType)(const OrtTensorInfo *, int *) = at(60);
    OrtStatus *(*GetDimensionsCount)(const OrtTensorInfo *, std::size_t *) = at(61);
    OrtStatus *(*GetDimensions)(const OrtTensorInfo *, std::int64_t *, std::size_t) = at(62);
    OrtStatus *(*GetTensorShapeElementCount)(const OrtTensorInfo *, std::size_t *) = at(64);
    OrtStatus *(*GetTensorTypeAndShape)(const OrtValue *, OrtTensorInfo **) = at(65);
    OrtStatus *(*CreateCpuMemoryInfo)(int allocator, int memory, OrtMemoryInfo **) = at(69);
    OrtStatus *(*AllocatorFree)(OrtAllocator *, void *) = at(76);
    OrtStatus *(*GetAllocatorWithDefaultOptions)(OrtAllocator **) = at(78);
    void (*ReleaseStatus)(OrtStatus *) = at(93);
    void (*ReleaseMemoryInfo)(OrtMemoryInfo *) = at(94);
    void (*ReleaseSession)(OrtSession *) = at(95);
    void (*ReleaseValue)(OrtValue *) = at(96);
    void (*ReleaseRunOptions)(OrtRunOptions *) = at(97);
    void (*ReleaseTypeInfo)(OrtTypeInfo *) = at(98);
    void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorInfo *) = at(99);
    void (*ReleaseSessionOptions)(OrtSessionOptions *) = at(100);
    OrtStatus *(*SessionEndProfiling)(OrtSession *, OrtAllocator *, char **file) = at(110);
    OrtStatus *(*RunWithBinding)(OrtSession *, const OrtRunOptions *, const OrtIoBinding *) = at(133);
    OrtStatus *(*CreateIoBinding)(OrtSession *, OrtIoBinding **) = at(134);
    void (*ReleaseIoBinding)(OrtIoBinding *) = at(135);
    OrtStatus *(*BindInput)(OrtIoBinding *, const char *name, const OrtValue *) = at(136);
    OrtStatus *(*BindOutputToDevice)(OrtIoBinding *, const char *name, const OrtMemoryInfo *) = at(138);
    OrtStatus *(*GetBoundOutputValues)(const OrtIoBinding *, OrtAllocator *, OrtValue ***, std::size_t *) = at(140);

    void (*ClearBoundOutputs)(OrtIoBinding *) = at(142);

    // Throws Refused with the library's message, if there is one.
    void check(OrtStatus *status) const {
        if (status == nullptr) return;
        const std::string message = GetErrorMessage(status);
        ReleaseStatus(status);
        throw Refused(message);
    }
};

// An object that the library made, with the function that takes it back.
template <typename T>
using Owned = std::unique_ptr<T, void (*)(T *)>;

// The element types by ONNX's numbers.
ElementType onnx_element_type(int type) {
    static const std::map<int, ElementType> types = {
        {1, ElementType::kFloat32},  {2, ElementType::kUint8},     {3, ElementType::kInt8},
        {4, ElementType::kUint16},   {5, ElementType::kInt16},     {6, ElementType::kInt32},
        {7, ElementType::kInt64},    {8, ElementType::kString},    {9, ElementType::kBool},
        {10, ElementType::kFloat16}, {11, ElementType::kFloat64},  {12, ElementType::kUint32},
        {13, ElementType::kUint64},  {14, ElementType::kComplex64}, {16, ElementType::kBfloat16},
    };
    const auto found = types.find(type);
    return found == types.end() ? ElementType::kOther : found->second;
}

class OnnxSession : public Session {
public:
    OnnxSession(const OrtApi &api, OrtEnv *env, const Model &model, const char *profile_prefix = nullptr)
        : api_(api) {
        OrtSessionOptions *made = nullptr;
        api.check(api.CreateSessionOptions(&made));
        const Owned<OrtSessionOptions> options(made, api.ReleaseSessionOptions);
        api.check(api.SetIntraOpNumThreads(options.get(), model.threads));
        api.check(api.SetInterOpNumThreads(options.get(), 1));
        api.check(api.SetSessionLogSeverityLevel(options.get(), kLogErrors));
        if (profile_prefix != nullptr) api.check(api.EnableProfiling(options.get(), profile_prefix));
        api.check(api.GetAllocatorWithDefaultOptions(&allocator_));

        OrtSession *session = nullptr;
        // From its path it finds weights in files beside it.
        api.check(model.path.empty()
                      ? api.CreateSessionFromArray(env, model.data, model.size, options.get(), &session)
                      : api.CreateSession(env, model.path.c_str(), options.get(), &session));
        session_.reset(session);
        OrtIoBinding *binding = nullptr;
        api.check(api.CreateIoBinding(session, &binding));
        binding_.reset(binding);
        OrtRunOptions *run_options = nullptr;
        api.check(api.CreateRunOptions(&run_options));
        run_options_.reset(run_options);
        bind_inputs(model);
        bind_outputs();
        fill(model.index);
    }

    bool fill(int index) override {
        bool has_indices = false;
        for (const Input &input : inputs_) {
            if (input.type == ElementType::kString) {
                const std::vector<const char *> texts(input.count, kText);
                api_.check(api_.FillStringTensor(input.value.get(), texts.data(), texts.size()));
                continue;
            }
            void *data = nullptr;
            api_.check(api_.GetTensorMutableData(input.value.get(), &data));
            fill_input(data, input.count, input.type, false, input.values, index);
            has_indices = has_indices || (is_index(input.type, false) && input.values.empty());
        }
        return has_indices;
    }

    void invoke() override {
        try {
            if (renews_outputs_) {
                api_.ClearBoundOutputs(binding_.get());
                bind_outputs();
            }
            api_.check(api_.RunWithBinding(session_.get(), run_options_.get(), binding_.get()));
            has_run_ = true;
        } catch (const Refused &) {
            // What one inference made is given to the next one, which refuses it where it is not what the model says of
            // its outputs.
            if (!has_run_ || renews_outputs_) throw;
            renews_outputs_ = true;
            invoke();
        }
    }

    std::vector<float> output(std::size_t values) override {
        OrtValue **outputs = nullptr;
        std::size_t count = 0;
        api_.check(api_.GetBoundOutputValues(binding_.get(), allocator_, &outputs, &count));
        std::vector<Owned<OrtValue>> owned;
        for (std::size_t i = 0; i < count; ++i) owned.emplace_back(outputs[i], api_.ReleaseValue);
        if (outputs != nullptr) api_.check(api_.AllocatorFree(allocator_, outputs));
        if (owned.empty()) return {};
        OrtTensorInfo *made = nullptr;
        api_.check(api_.GetTensorTypeAndShape(owned[0].get(), &made));
        const Owned<OrtTensorInfo> info(made, api_.ReleaseTensorTypeAndShapeInfo);
        int type = 0;
        api_.check(api_.GetTensorElementType(info.get(), &type));
        if (type != kFloat) throw Refused("the first output holds no float32 values, so it cannot be printed");
        api_.check(api_.GetTensorShapeElementCount(info.get(), &count));
        void *data = nullptr;
        api_.check(api_.GetTensorMutableData(owned[0].get(), &data));
        const float *const start = static_cast<const float *>(data);
        return std::vector<float>(start, start + std::min(values, count));
    }

    // The name of the file that was written.
    std::string end_profiling() {
        char *name = nullptr;
        api_.check(api_.SessionEndProfiling(session_.get(), allocator_, &name));
        return taken(name);
    }

private:
    std::string taken(char *text) const {
        const std::string copy = text;
        api_.check(api_.AllocatorFree(allocator_, text));
        return copy;
    }

    struct Input {
        Owned<OrtValue> value;
        std::size_t count;
        ElementType type;
        std::vector<double> values;
    };

    void bind_inputs(const Model &model) {
        std::size_t count = 0;
        api_.check(api_.SessionGetInputCount(session_.get(), &count));
        check_feeds(model, count);
        for (std::size_t i = 0; i < count; ++i) {
            char *text = nullptr;
            api_.check(api_.SessionGetInputName(session_.get(), i, allocator_, &text));
            const std::string name = taken(text);
            OrtTypeInfo *made = nullptr;
            api_.check(api_.SessionGetInputTypeInfo(session_.get(), i, &made));
            const Owned<OrtTypeInfo> type_info(made, api_.ReleaseTypeInfo);
            const OrtTensorInfo *info = nullptr;
            int type = 0;
            api_.check(api_.CastTypeInfoToTensorInfo(type_info.get(), &info));
            if (info != nullptr) api_.check(api_.GetTensorElementType(info, &type));
            const ElementType element = onnx_element_type(type);
            if (element == ElementType::kOther) throw Refused(not_fillable(name));
            const std::vector<std::int64_t> shape = model.feeds.empty() ? own_shape(info, name) : model.feeds[i].shape;
            OrtValue *value = nullptr;
            api_.check(api_.CreateTensorAsOrtValue(allocator_, shape.data(), shape.size(), type, &value));
            Owned<OrtValue> owned(value, api_.ReleaseValue);
            std::size_t elements = 1;
            for (const std::int64_t size : shape) elements *= static_cast<std::size_t>(size);  // the library had room
            const std::vector<double> values = model.feeds.empty() ? std::vector<double>() : model.feeds[i].values;
            inputs_.push_back({std::move(owned), elements, element, values});
            api_.check(api_.BindInput(binding_.get(), name.c_str(), value));
        }
    }

    std::vector<std::int64_t> own_shape(const OrtTensorInfo *info, const std::string &name) const {
        std::size_t rank = 0;
        api_.check(api_.GetDimensionsCount(info, &rank));
        std::vector<std::int64_t> shape(rank);
        api_.check(api_.GetDimensions(info, shape.data(), rank));
        for (const std::int64_t size : shape) {
            if (size < 0) throw Refused("input '" + name + "' has no fixed shape; give its sizes with --input-shape");
        }
        return shape;
    }

    void bind_outputs() {
        OrtMemoryInfo *made = nullptr;
        api_.check(api_.CreateCpuMemoryInfo(kArenaAllocator, kDefaultMemory, &made));
        const Owned<OrtMemoryInfo> memory(made, api_.ReleaseMemoryInfo);
        std::size_t count = 0;
        api_.check(api_.SessionGetOutputCount(session_.get(), &count));
        for (std::size_t i = 0; i < count; ++i) {
            char *text = nullptr;
            api_.check(api_.SessionGetOutputName(session_.get(), i, allocator_, &text));
            api_.check(api_.BindOutputToDevice(binding_.get(), taken(text).c_str(), memory.get()));
        }
    }

    const OrtApi &api_;
    bool has_run_ = false, renews_outputs_ = false;
    OrtAllocator *allocator_ = nullptr;  // the library's own
    Owned<OrtSession> session_{nullptr, api_.ReleaseSession};
    std::vector<Input> inputs_;
    Owned<OrtRunOptions> run_options_{nullptr, api_.ReleaseRunOptions};
    Owned<OrtIoBinding> binding_{nullptr, api_.ReleaseIoBinding};
};

class OnnxRuntime : public Runtime {
public:
    OnnxRuntime(std::string version, const void *const *table) : version_(std::move(version)), api_(table) {
        try {
            api_.check(api_.CreateEnv(kLogErrors, "bpnas-runner", &env_));
        } catch (const Refused &reason) {
            throw Fatal(kRuntimeUnusable, std::string("ONNX Runtime does not start: ") + reason.what());
        }
    }

    std::string version() const override { return version_; }

    std::unique_ptr<Session> open(const Model &model) override {
        return std::make_unique<OnnxSession>(api_, env_, model);
    }

    Profile profile(const Model &model, const std::string &folder) override {
        const std::string prefix = folder + "bpnas-profile-" + std::to_string(getpid());
        OnnxSession session(api_, env_, model, prefix.c_str());
        const double inference_ns = profile_inferences(session);
        const std::string file = session.end_profiling();
        const OperatorTable table = read_onnxruntime_profile(file, kProfileWarmupRuns);
        std::vector<OperatorTime> operators = table.operators();
        std::remove(file.c_str());
        if (operators.empty())
            throw Refused("ONNX Runtime wrote no operators to its profile; is the list's folder writable?");
        return {std::move(operators), inference_ns, table.runs()};
    }

private:
    std::string version_;
    OrtApi api_;
    OrtEnv *env_ = nullptr;  // lives as long as the process, as the library does
};

}  // namespace

std::unique_ptr<Runtime> load_onnxruntime(const std::string &library) {
    // Its telemetry starts a thread and a program, which is not what is to be timed.
    setenv("ORT_DISABLE_TELEMETRY", "1", 1);
    const OrtApiBase *(*const get_base)() = SharedLibrary(library).function("OrtGetApiBase");
    const OrtApiBase *const base = get_base();
    const char *const version = base != nullptr ? base->GetVersionString() : nullptr;
    // 0.x had another table.
    if (version == nullptr || std::atoi(version) < 1) {
        throw Fatal(kRuntimeUnusable,
                    library + ": its version '" + (version ? version : "") + "' is none of ONNX Runtime 1.7 or newer");
    }
    const void *const *const table = base->GetApi(kApiVersion);
    if (table == nullptr) {
        throw Fatal(kRuntimeUnusable, library + ": ONNX Runtime " + version + " is too old; 1.7 or newer is needed");
    }
    return std::make_unique<OnnxRuntime>(version, table);
}
