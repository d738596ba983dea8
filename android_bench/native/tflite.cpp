// TensorFlow Lite through its C API, with the XNNPACK delegate as in its Python interpreter. Not every library applies
// it by itself, so it is applied here wherever the library has it.
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <map>
#include <new>
#include <tuple>
#include <vector>

#include "exit_code.h"
#include "profile.h"
#include "runtime.h"
#include "timing.h"

namespace {

struct TfLiteModel;
struct TfLiteInterpreter;
struct TfLiteInterpreterOptions;
struct TfLiteTensor;
struct TfLiteDelegate;

constexpr int kOk = 0;
constexpr int kFloat32 = 1;

constexpr double kOwnStepNs = 1;  // of now_ns(), which takes the times of operators outside of a delegate

using ErrorReporter = void(void *user_data, const char *format, va_list arguments);

// Called around every operator. The layout is that of TFLite's telemetry/c/profiler.h, 2.11 and newer.
struct TelemetryProfiler {
    void *data;
    void (*event)(TelemetryProfiler *, const char *, std::uint64_t);
    void (*operator_event)(TelemetryProfiler *, const char *, std::int64_t, std::int64_t, std::uint64_t);
    void (*settings)(TelemetryProfiler *, const char *, const void *);
    std::uint32_t (*begin_operator)(TelemetryProfiler *, const char *name, std::int64_t index, std::int64_t subgraph);
    void (*end_operator)(TelemetryProfiler *, std::uint32_t handle);
    // From within a delegate, which took the time itself.
    void (*operator_time)(TelemetryProfiler *, const char *name, std::uint64_t microseconds, std::int64_t index,
                          std::int64_t subgraph);
};

// The library returns it by value, and every version appends members: there is room here for more than any has.
struct XnnpackOptions {
    std::int32_t num_threads;
    char others[508];
};

struct QuantizationParams {
    float scale;
    std::int32_t zero_point;
};

struct TfLiteApi {
    explicit TfLiteApi(const std::string &path) : library(path) {}
    AnyFunction named(const char *name) const { return library.function(name); }

    SharedLibrary library;
    const char *(*Version)() = named("TfLiteVersion");
    TfLiteModel *(*ModelCreate)(const void *, std::size_t, ErrorReporter *,
                                void *) = named("TfLiteModelCreateWithErrorReporter");
    void (*ModelDelete)(TfLiteModel *) = named("TfLiteModelDelete");
    TfLiteInterpreterOptions *(*OptionsCreate)() = named("TfLiteInterpreterOptionsCreate");
    void (*OptionsDelete)(TfLiteInterpreterOptions *) = named("TfLiteInterpreterOptionsDelete");
    void (*OptionsSetNumThreads)(TfLiteInterpreterOptions *,
                                 std::int32_t) = named("TfLiteInterpreterOptionsSetNumThreads");
    void (*OptionsSetErrorReporter)(TfLiteInterpreterOptions *, ErrorReporter *,
                                    void *) = named("TfLiteInterpreterOptionsSetErrorReporter");
    // An experimental function, so it may be missing.
    void (*OptionsSetTelemetryProfiler)(TfLiteInterpreterOptions *, TelemetryProfiler *) =
        library.optional_function("TfLiteInterpreterOptionsSetTelemetryProfiler");
    XnnpackOptions (*XnnpackOptionsDefault)() = library.optional_function("TfLiteXNNPackDelegateOptionsDefault");
    TfLiteDelegate *(*XnnpackCreate)(const XnnpackOptions *) = library.optional_function("TfLiteXNNPackDelegateCreate");
    void (*XnnpackDelete)(TfLiteDelegate *) = library.optional_function("TfLiteXNNPackDelegateDelete");
    void (*OptionsAddDelegate)(TfLiteInterpreterOptions *,
                               TfLiteDelegate *) = named("TfLiteInterpreterOptionsAddDelegate");
    TfLiteInterpreter *(*InterpreterCreate)(const TfLiteModel *,
                                            const TfLiteInterpreterOptions *) = named("TfLiteInterpreterCreate");
    void (*InterpreterDelete)(TfLiteInterpreter *) = named("TfLiteInterpreterDelete");
    int (*AllocateTensors)(TfLiteInterpreter *) = named("TfLiteInterpreterAllocateTensors");
    int (*Invoke)(TfLiteInterpreter *) = named("TfLiteInterpreterInvoke");
    std::int32_t (*GetInputTensorCount)(const TfLiteInterpreter *) = named("TfLiteInterpreterGetInputTensorCount");
    TfLiteTensor *(*GetInputTensor)(const TfLiteInterpreter *, std::int32_t) = named("TfLiteInterpreterGetInputTensor");
    std::int32_t (*GetOutputTensorCount)(const TfLiteInterpreter *) = named("TfLiteInterpreterGetOutputTensorCount");
    const TfLiteTensor *(*GetOutputTensor)(const TfLiteInterpreter *,
                                           std::int32_t) = named("TfLiteInterpreterGetOutputTensor");
    int (*TensorType)(const TfLiteTensor *) = named("TfLiteTensorType");
    std::size_t (*TensorByteSize)(const TfLiteTensor *) = named("TfLiteTensorByteSize");
    void *(*TensorData)(const TfLiteTensor *) = named("TfLiteTensorData");
    const char *(*TensorName)(const TfLiteTensor *) = named("TfLiteTensorName");

    // Older libraries lack some of these.
    int (*ResizeInputTensor)(TfLiteInterpreter *, std::int32_t index, const int *sizes, std::int32_t rank) =
        library.optional_function("TfLiteInterpreterResizeInputTensor");
    QuantizationParams (*TensorQuantization)(const TfLiteTensor *) =
        library.optional_function("TfLiteTensorQuantizationParams");
    int (*TensorRealloc)(std::size_t bytes, TfLiteTensor *) = library.optional_function("TfLiteTensorRealloc");
    std::int32_t (*TensorNumDims)(const TfLiteTensor *) = library.optional_function("TfLiteTensorNumDims");
    std::int32_t (*TensorDim)(const TfLiteTensor *, std::int32_t) = library.optional_function("TfLiteTensorDim");

    bool has_xnnpack() const {
        return XnnpackOptionsDefault != nullptr && XnnpackCreate != nullptr && XnnpackDelete != nullptr;
    }
};

template <typename T>
using Owned = std::unique_ptr<T, void (*)(T *)>;

Owned<TfLiteDelegate> make_xnnpack(const TfLiteApi &api, int threads) {
    XnnpackOptions options = api.XnnpackOptionsDefault();
    options.num_threads = threads;
    return {api.XnnpackCreate(&options), api.XnnpackDelete};
}

// Collects what the library reports; the first message says most.
void collect_error(void *errors, const char *format, va_list arguments) {
    char text[500];
    std::vsnprintf(text, sizeof text, format, arguments);
    std::string &all = *static_cast<std::string *>(errors);
    if (all.size() < sizeof text) all += (all.empty() ? "" : "; ") + std::string(text);
}

// The element types by TFLite's numbers.
ElementType tflite_element_type(int type) {
    static const std::map<int, ElementType> types = {
        {1, ElementType::kFloat32},  {2, ElementType::kInt32},    {3, ElementType::kUint8},
        {4, ElementType::kInt64},    {5, ElementType::kString},   {6, ElementType::kBool},
        {7, ElementType::kInt16},    {8, ElementType::kComplex64}, {9, ElementType::kInt8},
        {10, ElementType::kFloat16}, {11, ElementType::kFloat64}, {13, ElementType::kUint64},
        {16, ElementType::kUint32},  {17, ElementType::kUint16},  {19, ElementType::kBfloat16},
    };
    const auto found = types.find(type);
    return found == types.end() ? ElementType::kOther : found->second;
}

class TfliteSession : public Session {
public:
    TfliteSession(const TfLiteApi &api, const Model &model, TelemetryProfiler *profiler = nullptr)
        : api_(api), feeds_(model.feeds) {
        model_.reset(api.ModelCreate(model.data, model.size, collect_error, &errors_));
        if (!model_) refuse("this is no TFLite model");
        const Owned<TfLiteInterpreterOptions> options(api.OptionsCreate(), api.OptionsDelete);
        api.OptionsSetNumThreads(options.get(), model.threads);
        api.OptionsSetErrorReporter(options.get(), collect_error, &errors_);
        if (profiler != nullptr) api.OptionsSetTelemetryProfiler(options.get(), profiler);
        if (api.has_xnnpack()) {
            delegate_ = make_xnnpack(api, model.threads);
            if (!delegate_) refuse("the XNNPACK delegate could not be made");
            api.OptionsAddDelegate(options.get(), delegate_.get());
        }
        interpreter_.reset(api.InterpreterCreate(model_.get(), options.get()));
        if (!interpreter_) refuse("no interpreter could be made for the model");
        check_feeds(model, static_cast<std::size_t>(api.GetInputTensorCount(interpreter_.get())));
        for (std::size_t i = 0; i < feeds_.size(); ++i) resize(static_cast<std::int32_t>(i), feeds_[i].shape);
        if (api.AllocateTensors(interpreter_.get()) != kOk) {
            const std::string what = "the tensors could not be allocated";
            refuse((errors_.empty() ? what + ", perhaps because " + kNoMemory : what).c_str());
        }
        fill(model.index);
    }

    bool fill(int index) override {
        bool has_indices = false;
        const std::int32_t count = api_.GetInputTensorCount(interpreter_.get());
        for (std::int32_t i = 0; i < count; ++i) {
            TfLiteTensor *const tensor = api_.GetInputTensor(interpreter_.get(), i);
            const ElementType type = tflite_element_type(api_.TensorType(tensor));
            if (type == ElementType::kString) {
                fill_texts(tensor);
                continue;
            }
            const std::size_t bytes = api_.TensorByteSize(tensor);
            if (type == ElementType::kOther) throw Refused(not_fillable(name_of(tensor)));
            if (api_.TensorData(tensor) == nullptr && bytes > 0) throw std::bad_alloc();
            const bool quantised = api_.TensorQuantization != nullptr && api_.TensorQuantization(tensor).scale != 0;
            const std::vector<double> values =
                feeds_.empty() ? std::vector<double>() : feeds_[static_cast<std::size_t>(i)].values;
            fill_input(api_.TensorData(tensor), bytes / element_size(type), type, quantised, values, index);
            has_indices = has_indices || (is_index(type, quantised) && values.empty());
        }
        return has_indices;
    }

    void invoke() override {
        if (api_.Invoke(interpreter_.get()) != kOk) refuse("the inference failed");
    }

    std::vector<float> output(std::size_t values) override {
        if (api_.GetOutputTensorCount(interpreter_.get()) < 1) return {};
        const TfLiteTensor *const tensor = api_.GetOutputTensor(interpreter_.get(), 0);
        const float *const data = static_cast<const float *>(api_.TensorData(tensor));
        if (api_.TensorType(tensor) != kFloat32 || data == nullptr) {
            throw Refused("the first output holds no float32 values, so it cannot be printed");
        }
        return std::vector<float>(data, data + std::min(values, api_.TensorByteSize(tensor) / sizeof(float)));
    }

private:
    std::string name_of(const TfLiteTensor *tensor) const {
        const char *const name = api_.TensorName(tensor);
        return name ? name : "";
    }

    void resize(std::int32_t input, const std::vector<std::int64_t> &shape) {
        if (api_.ResizeInputTensor == nullptr || api_.TensorNumDims == nullptr || api_.TensorDim == nullptr) {
            throw Refused("this TFLite library cannot change the sizes of inputs");
        }
        // What is as it should be is left alone: to resize it makes an interpreter plan all its memory again.
        const TfLiteTensor *const tensor = api_.GetInputTensor(interpreter_.get(), input);
        const std::vector<int> sizes(shape.begin(), shape.end());
        bool same = api_.TensorNumDims(tensor) == static_cast<std::int32_t>(sizes.size());
        for (std::size_t i = 0; same && i < sizes.size(); ++i) {
            same = api_.TensorDim(tensor, static_cast<std::int32_t>(i)) == sizes[i];
        }
        if (same) return;
        const auto rank = static_cast<std::int32_t>(sizes.size());
        if (api_.ResizeInputTensor(interpreter_.get(), input, sizes.data(), rank) != kOk) {
            refuse("an input could not be given its sizes");
        }
    }

    // As TFLite keeps them: their number, where each begins and the last one ends, all of 32 bits; then the texts.
    void fill_texts(TfLiteTensor *tensor) const {
        if (api_.TensorRealloc == nullptr || api_.TensorNumDims == nullptr || api_.TensorDim == nullptr) {
            throw Refused("this TFLite library takes no texts");
        }
        std::size_t count = 1;
        for (std::int32_t i = 0; i < api_.TensorNumDims(tensor); ++i) {
            count *= static_cast<std::size_t>(api_.TensorDim(tensor, i));
        }
        const std::string text = kText;
        std::vector<std::int32_t> places = {static_cast<std::int32_t>(count)};
        const std::size_t head = (count + 2) * sizeof(std::int32_t);
        for (std::size_t i = 0; i <= count; ++i) places.push_back(static_cast<std::int32_t>(head + i * text.size()));
        const std::size_t bytes = head + count * text.size();
        if (api_.TensorRealloc(bytes, tensor) != kOk) throw Refused("the texts of an input could not be set");
        char *const data = static_cast<char *>(api_.TensorData(tensor));
        std::memcpy(data, places.data(), head);
        for (std::size_t i = 0; i < count; ++i) std::memcpy(data + head + i * text.size(), text.data(), text.size());
    }

    [[noreturn]] void refuse(const char *what) const {
        throw Refused(errors_.empty() ? what : what + (": " + errors_));
    }

    const TfLiteApi &api_;
    const std::vector<Feed> feeds_;
    std::string errors_;
    Owned<TfLiteDelegate> delegate_{nullptr, nullptr};
    Owned<TfLiteModel> model_{nullptr, api_.ModelDelete};
    Owned<TfLiteInterpreter> interpreter_{nullptr, api_.InterpreterDelete};
};

// What TFLite tells its profiler. Operators nest: those of a delegate, of a branch or of a loop's body are within another.
class OperatorProfile {
public:
    OperatorProfile() {
        profiler_.data = this;
        profiler_.event = [](TelemetryProfiler *, const char *, std::uint64_t) {};
        profiler_.operator_event = [](TelemetryProfiler *, const char *, std::int64_t, std::int64_t, std::uint64_t) {};
        profiler_.settings = [](TelemetryProfiler *, const char *, const void *) {};
        profiler_.begin_operator = [](TelemetryProfiler *self, const char *name, std::int64_t index,
                                      std::int64_t subgraph) {
            return of(self).begin({subgraph, index, name ? name : ""});
        };
        profiler_.end_operator = [](TelemetryProfiler *self, std::uint32_t handle) { of(self).end(handle); };
        profiler_.operator_time = [](TelemetryProfiler *self, const char *name, std::uint64_t microseconds,
                                     std::int64_t index, std::int64_t subgraph) {
            of(self).add_timed({subgraph, index, name ? name : ""}, static_cast<double>(microseconds) * 1e3);
        };
    }

    TelemetryProfiler *hook() { return &profiler_; }

    void begin_run(bool counts) {
        write_run();
        counts_ = counts;
    }

    const OperatorTable &table() {
        write_run();
        return table_;
    }

private:
    struct Key {
        std::int64_t subgraph, index;
        std::string name;
    };
    struct Open {
        std::uint32_t handle;
        Key key;
        std::int64_t start;
        OwnTime own;
    };
    struct Done {
        Key key;
        bool in_delegate;
        OperatorRun run;
    };

    static OperatorProfile &of(TelemetryProfiler *profiler) { return *static_cast<OperatorProfile *>(profiler->data); }

    std::uint32_t begin(Key key) {
        open_.push_back({++last_handle_, std::move(key), 0, {}});
        open_.back().start = now_ns();
        return last_handle_;
    }

    void end(std::uint32_t handle) {
        const std::int64_t now = now_ns();
        const auto is_it = [&](const Open &open) { return open.handle == handle; };
        if (std::none_of(open_.begin(), open_.end(), is_it)) return;
        while (open_.back().handle != handle) open_.pop_back();  // those within it that have no end of their own
        Open done = std::move(open_.back());
        open_.pop_back();
        const double ns = static_cast<double>(now - done.start);
        done.own.add(ns, kOwnStepNs);
        if (!open_.empty()) open_.back().own.take_off(ns, kOwnStepNs);
        done_.push_back({std::move(done.key), false, done.own.run()});
    }

    // From within a delegate, which took the time itself.
    void add_timed(Key key, double ns) {
        if (!open_.empty()) open_.back().own.take_off(ns, kProfilerStepNs);
        done_.push_back({std::move(key), true, {ns, kProfilerStepNs}});
    }

    // Between two inferences, for it takes its time.
    void write_run() {
        if (counts_) table_.begin_run();
        for (const Done &done : done_) {
            if (!counts_) break;
            // A delegate is listed with its own operators, whose names say no more than their kind. The main graph goes
            // without saying.
            std::string place = std::to_string(done.key.index);
            if (done.key.subgraph > 0) place = std::to_string(done.key.subgraph) + ":" + place;
            if (done.in_delegate) place = "delegate:" + place;
            table_.add(place + " " + done.key.name, place, done.key.name, done.run);
        }
        done_.clear();
        open_.clear();
        counts_ = false;
    }

    TelemetryProfiler profiler_{};
    bool counts_ = false;
    std::uint32_t last_handle_ = 0;
    std::vector<Open> open_;
    std::vector<Done> done_;
    OperatorTable table_;
};

class TfliteRuntime : public Runtime {
public:
    explicit TfliteRuntime(const std::string &library) : api_(library) {
        // Better said once now than at every model; it fails where XNNPACK cannot find out what processor this is.
        if (api_.has_xnnpack() && !make_xnnpack(api_, 1)) {
            throw Fatal(kRuntimeUnusable, library +
                                              ": its XNNPACK delegate does not start; can /proc/cpuinfo and "
                                              "/sys/devices/system/cpu be read here?");
        }
    }

    std::string version() const override { return api_.Version(); }

    std::unique_ptr<Session> open(const Model &model) override { return std::make_unique<TfliteSession>(api_, model); }

    Profile profile(const Model &model, const std::string &) override {
        if (api_.OptionsSetTelemetryProfiler == nullptr)
            throw Refused("this TFLite library has no hook for a profiler");
        OperatorProfile profile;
        TfliteSession session(api_, model, profile.hook());
        const double inference_ns = profile_inferences(session, [&](bool counts) { profile.begin_run(counts); });
        return {profile.table().operators(), inference_ns, profile.table().runs()};
    }

private:
    TfLiteApi api_;
};

}  // namespace

std::unique_ptr<Runtime> load_tflite(const std::string &library) { return std::make_unique<TfliteRuntime>(library); }
