// bpnas-runner: times the models of a list, one after the other, in one process. docs/native.md describes its lines.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <new>
#include <optional>
#include <string>

#include <sys/resource.h>
#include <unistd.h>

#include "conditions.h"
#include "deadline.h"
#include "exit_code.h"
#include "json_lines.h"
#include "model_list.h"
#include "options.h"
#include "runtime.h"
#include "timing.h"

namespace {

constexpr int kUsualIndex = 1;  // a count or a length of 0 would leave nothing to do

class Runner {
public:
    Runner(const Options &options, const Answers &answers, Runtime &runtime)
        : options_(options), answers_(answers), runtime_(runtime), baseline_ns_(options.sentinel_baseline_ns) {}

    void run_all(const std::vector<ModelEntry> &models) {
        for (std::size_t i = static_cast<std::size_t>(options_.first); i < models.size(); ++i) {
            index_ = static_cast<std::int64_t>(i);
            model_ = &models[i];
            run_one();
        }
        answers_.write(JsonLine().add("end", static_cast<std::int64_t>(models.size())));
    }

private:
    JsonLine line(const char *kind) const {
        JsonLine line;
        line.add(kind, index_).add("id", model_->id);
        return line;
    }

    void run_one() {
        answers_.write(line("begin"));
        wait_while_hot();
        double before_ns = wait_while_slow();
        const Conditions before = state(before_ns);
        try {
            JsonLine timed = time_model();
            double after_ns = sentinel_ns();
            bool throttled = is_slow(after_ns);
            Conditions first = before;
            if (throttled) {  // some samples come from a core that had slowed down: once more, when it has recovered
                wait_while_hot();
                before_ns = wait_while_slow();
                first = state(before_ns);
                timed = time_model();
                after_ns = sentinel_ns();
                throttled = is_slow(after_ns);
            }
            Conditions after = state(after_ns);
            if (throttled) after.emplace_back("throttled", 1.0);
            answers_.write(timed.add("before", first).add("after", after));
        } catch (const Refused &reason) {
            answers_.write(line("model").add("refused", one_line(reason.what())));
            return;
        } catch (const std::bad_alloc &) {
            answers_.write(line("model").add("refused", std::string(kNoMemory)));
            return;
        }
        if (options_.profile) profile();
    }

    JsonLine time_model() {
        const Deadline deadline = time_limit("model");
        const std::int64_t start = now_ns();
        const std::unique_ptr<Session> session = runtime_.open(model(kUsualIndex));
        const std::int64_t load_ns = now_ns() - start;
        index_taken_ = infer_first(*session, kUsualIndex);
        const Timing timing = time_session(*session, options_.timing);
        JsonLine timed = line("model");
        timed.add("samples_ns", timing.samples_ns).add("repeats", timing.repeats);
        timed.add("warmup_runs", timing.warmup_runs).add("warmup_ns", timing.warmup_ns).add("load_ns", load_ns);
        if (options_.print_output > 0)
            timed.add("output", session->output(static_cast<std::size_t>(options_.print_output)));
        return timed;
    }

    void profile() {
        try {
            std::string operators = "[";
            double inference_ns = 0;
            std::int64_t runs = 0;
            {
                const Deadline deadline = time_limit("profile");
                const std::string folder = options_.list.substr(0, options_.list.rfind('/') + 1);
                const Profile profile = runtime_.profile(model(index_taken_), folder);
                inference_ns = profile.inference_ns;
                runs = static_cast<std::int64_t>(profile.runs);
                for (const OperatorTime &time : profile.operators) {
                    char numbers[160];
                    std::snprintf(numbers, sizeof numbers,
                                  ",\"ns\":%.10g,\"resolution_ns\":%.10g,\"p10_ns\":%.10g,\"p90_ns\":%.10g}", time.ns,
                                  time.resolution_ns, time.p10_ns, time.p90_ns);
                    operators += (operators.size() > 1 ? "," : "") + ("{\"name\":" + json_string(time.name)) +
                                 ",\"type\":" + json_string(time.type) + numbers;
                }
            }
            answers_.write(line("profile").add_json("operators", operators + "]")
                               .add("inference_ns", inference_ns)
                               .add("runs", runs));
        } catch (const Refused &reason) {
            answers_.write(line("profile").add("unavailable", one_line(reason.what())));
        }
    }

    Model model(int index) const {
        return {model_->data, model_->size, static_cast<int>(options_.threads), model_->path, model_->feeds, index};
    }

    Deadline time_limit(const char *kind) const {
        return Deadline(options_.timeout_seconds, answers_.descriptor(),
                        line(kind).add("timeout", options_.timeout_seconds).finished());
    }

    void report_cooling(const char *what, double value) {
        answers_.write(JsonLine().add("cooling", index_).add("value", value).add("what", std::string(what)));
    }

    void wait_while_hot() {
        if (!options_.hot_gate) return;
        const auto too_hot = [&]() -> std::optional<double> {
            const std::optional<double> value = options_.hot_gate->file.read();
            return value && *value >= options_.hot_gate->limit ? value : std::nullopt;
        };
        cool_down(options_.cool_seconds, too_hot, [&](double value) { report_cooling("hot_file", value); });
    }

    // Returns the last reading of the sentinel.
    double wait_while_slow() {
        double last_ns = sentinel_ns();
        if (baseline_ns_ <= 0) baseline_ns_ = last_ns;
        bool is_first = true;
        const auto too_slow = [&]() -> std::optional<double> {
            if (!is_first) last_ns = sentinel_ns();
            is_first = false;
            return is_slow(last_ns) ? std::optional<double>(last_ns) : std::nullopt;
        };
        cool_down(options_.cool_seconds, too_slow, [&](double value) { report_cooling("sentinel_ns", value); });
        return last_ns;
    }

    bool is_slow(double ns) const { return options_.sentinel_limit > 0 && ns > options_.sentinel_limit * baseline_ns_; }

    Conditions state(double sentinel) const {
        Conditions conditions;
        for (const WatchedFile &file : options_.watches) {
            if (const std::optional<double> value = file.read()) conditions.emplace_back(file.name, *value);
        }
        for (const auto &[name, word] : read_words(options_.watched_words)) conditions.emplace_back(name, word);
        conditions.emplace_back("sentinel_ns", sentinel);
        return conditions;
    }

    const Options &options_;
    const Answers &answers_;
    Runtime &runtime_;
    double baseline_ns_;
    int index_taken_ = kUsualIndex;
    std::int64_t index_ = 0;
    const ModelEntry *model_ = nullptr;
};

// Whoever asks for more is refused it; a phone would end the program, and perhaps others, instead.
void limit_memory(const Options &options) {
    double most = options.max_memory;
    if (options.usual_memory) {
        const double there = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE));
        most = there > 0 ? std::max(5e8, std::min(4e9, there / 2)) : 4e9;
    }
    rlimit limit{};
    if (most <= 0 || getrlimit(RLIMIT_DATA, &limit) != 0) return;
    limit.rlim_cur = std::min(limit.rlim_max, static_cast<rlim_t>(most));
    setrlimit(RLIMIT_DATA, &limit);
}

void run(const Options &options, const Answers &answers) {
    if (!options.affinity.empty()) set_affinity(options.affinity);  // before the runtime starts threads
    limit_memory(options);
    const std::vector<ModelEntry> models = options.probe ? std::vector<ModelEntry>() : read_model_list(options.list);
    const std::unique_ptr<Runtime> runtime = load_runtime(options.runtime, options.library);
    JsonLine hello;
    hello.add("hello", std::int64_t{1})
        .add("runner", std::string(BPNAS_RUNNER_VERSION))
        .add("runtime", options.runtime);
    hello.add("version", runtime->version()).add("clock", std::string("CLOCK_MONOTONIC_RAW"));
    hello.add("pid", std::int64_t{getpid()}).add("affinity", affinity());
    answers.write(hello.add_json("watch_text", "true").add_json("feeds", "true"));
    if (!options.probe) Runner(options, answers, *runtime).run_all(models);
}

}  // namespace

int main(int argc, char **argv) {
    int code = kDone;
    try {
        const Options options = parse_options(argc, argv);
        const Answers answers;
        run(options, answers);
    } catch (const Fatal &error) {
        std::fprintf(stderr, "bpnas-runner: %s\n", one_line(error.what(), 2000).c_str());
        code = error.code;
    } catch (const std::exception &error) {  // out of memory, above all
        std::fprintf(stderr, "bpnas-runner: %s\n", error.what());
        code = kRuntimeUnusable;
    }
    // Not by way of the destructors of the runtime's globals, which crash at times; everything was written.
    std::fflush(stderr);
    _exit(code);
}
