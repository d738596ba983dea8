#include "onnxruntime_profile.h"

#include <cstdlib>
#include <fstream>
#include <map>

namespace {

// The string or number after `"name" :`, as it is written there; empty where there is none.
std::string field(const std::string &line, const std::string &name) {
    std::size_t at = line.find("\"" + name + "\"");
    if (at == std::string::npos) return "";
    at = line.find_first_not_of(" :", at + name.size() + 2);
    if (at == std::string::npos) return "";
    if (line[at] != '"') return line.substr(at, line.find_first_of(",} ", at) - at);
    return line.substr(at + 1, line.find('"', at + 1) - at - 1);
}

}  // namespace

std::vector<OperatorTime> read_onnxruntime_profile(const std::string &path, int warmup_runs, int runs) {
    // A JSON array with one event a line; the ones wanted look so:
    // {"cat" : "Node",...,"dur" :12,...,"name" :"conv1_kernel_time","args" : {"op_name" : "Conv","node_index" :
    // "3",...}},
    const std::string suffix = "_kernel_time";
    std::vector<OperatorTime> operators;
    std::map<std::string, std::pair<std::size_t, int>> seen;  // node -> its place in `operators`, and how often it came
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        std::string name = field(line, "name");
        if (field(line, "cat") != "Node" || name.size() < suffix.size() ||
            name.compare(name.size() - suffix.size(), suffix.size(), suffix) != 0) {
            continue;
        }
        name.resize(name.size() - suffix.size());
        const auto [found, is_new] = seen.try_emplace(field(line, "node_index") + " " + name, operators.size(), 0);
        if (is_new) operators.push_back({name, field(line, "op_name"), 0, 0});
        auto &[place, count] = found->second;
        if (++count <= warmup_runs) continue;
        operators[place].ns += std::strtod(field(line, "dur").c_str(), nullptr) * 1e3 / runs;
        operators[place].resolution_ns += kProfilerStepNs / runs;
    }
    return operators;
}
