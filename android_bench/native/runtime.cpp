#include "runtime.h"

#include <dlfcn.h>

#include "exit_code.h"

std::unique_ptr<Runtime> load_runtime(const std::string &name, const std::string &library) {
    if (name == "onnxruntime") return load_onnxruntime(library);
    if (name == "tflite") return load_tflite(library);
    throw Fatal(kUsage, "--runtime must be onnxruntime or tflite, not '" + name + "'");
}

SharedLibrary::SharedLibrary(const std::string &path) : path_(path) {
    // With a slash in it the name is that of a file; without one it would be searched for.
    const std::string file = path.find('/') == std::string::npos ? "./" + path : path;
    handle_ = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_ == nullptr) {
        const char *const reason = dlerror();
        throw Fatal(kRuntimeUnusable, "the runtime's library cannot be loaded: " + std::string(reason ? reason : path));
    }
}

AnyFunction SharedLibrary::function(const char *name) const {
    const void *const address = dlsym(handle_, name);
    if (address == nullptr)
        throw Fatal(kRuntimeUnusable, path_ + ": has no function " + name + ", so it is another library");
    return AnyFunction(address);
}

AnyFunction SharedLibrary::optional_function(const char *name) const { return AnyFunction(dlsym(handle_, name)); }

void check_feeds(const Model &model, std::size_t inputs) {
    if (model.feeds.empty() || model.feeds.size() == inputs) return;
    throw Refused("the runtime sees " + std::to_string(inputs) + " inputs, but " + std::to_string(model.feeds.size()) +
                  " are fed");
}
