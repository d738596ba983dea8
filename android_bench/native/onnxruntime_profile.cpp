#include "onnxruntime_profile.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <vector>

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

struct Event {
    std::string key, name, type;
    double start_us, us;
    std::size_t place;           // among the nodes of its inference
    std::size_t parent = kNone;  // the node whose branch or body it is in

    static constexpr std::size_t kNone = static_cast<std::size_t>(-1);
};

// The nodes of one inference. An event comes when what it tells of ends: those of a branch or a body come before their
// graph's, and that comes before the event of the node whose graph it is.
class Inference {
public:
    void add_node(Event node) {
        node.place = nodes_.size();
        for (const std::size_t inner : of_graphs_) {
            if (nodes_[inner].start_us >= node.start_us) nodes_[inner].parent = node.place;
        }
        of_graphs_.erase(std::remove_if(of_graphs_.begin(), of_graphs_.end(),
                                        [&](std::size_t inner) { return nodes_[inner].parent != Event::kNone; }),
                         of_graphs_.end());
        open_.push_back(node.place);
        nodes_.push_back(std::move(node));
    }

    // A graph has ended that began then: what came since is in it.
    void end_graph(double start_us) {
        while (!open_.empty() && nodes_[open_.back()].start_us >= start_us) {
            of_graphs_.push_back(open_.back());
            open_.pop_back();
        }
    }

    void write(OperatorTable &table) {
        std::vector<OwnTime> own(nodes_.size());
        for (const Event &node : nodes_) {
            own[node.place].add(node.us * 1e3, kProfilerStepNs);
            if (node.parent != Event::kNone) own[node.parent].take_off(node.us * 1e3, kProfilerStepNs);
        }
        std::vector<std::size_t> order(nodes_.size());
        for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
        // A node with a graph of its own comes before what is in that; of two that began at once it ended later.
        std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
            if (nodes_[a].start_us != nodes_[b].start_us) return nodes_[a].start_us < nodes_[b].start_us;
            return nodes_[b].parent == a;
        });
        for (const std::size_t i : order) {
            std::string key = nodes_[i].key, name = nodes_[i].name;
            for (std::size_t outer = nodes_[i].parent; outer != Event::kNone; outer = nodes_[outer].parent) {
                key = nodes_[outer].key + "/" + key;
                name = nodes_[outer].name + "/" + name;
            }
            table.add(key, name, nodes_[i].type, own[i].run());
        }
    }

private:
    std::vector<Event> nodes_;
    std::vector<std::size_t> open_, of_graphs_;  // those whose graph has not ended yet, or whose graph's node has not
};

double number(const std::string &line, const std::string &name) {
    return std::strtod(field(line, name).c_str(), nullptr);
}

}  // namespace

OperatorTable read_onnxruntime_profile(const std::string &path, int warmup_runs) {
    // A JSON array with one event a line; the ones wanted look so:
    // {"cat" : "Node",...,"dur" :12,"ts" :345,...,"name" :"conv1_kernel_time","args" : {"op_name" : "Conv","node_index"
    // : "3",...}}, and likewise of "Session": "SequentialExecutor::Execute" for each graph, "model_run" for each
    // inference.
    const std::string suffix = "_kernel_time";
    OperatorTable table;
    Inference inference;
    int runs = 0;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        std::string name = field(line, "name");
        const std::string kind = field(line, "cat");
        if (kind == "Session" && name == "model_run") {
            // What a full file cuts off has no such end, and so does not count.
            if (++runs > warmup_runs) {
                table.begin_run();
                inference.write(table);
            }
            inference = Inference();
        } else if (kind == "Session" && name == "SequentialExecutor::Execute") {
            inference.end_graph(number(line, "ts"));
        } else if (kind == "Node" && name.size() > suffix.size() &&
                   name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0) {
            name.resize(name.size() - suffix.size());
            inference.add_node({field(line, "node_index") + " " + name, name, field(line, "op_name"),
                                number(line, "ts"), number(line, "dur"), 0});
        }
    }
    return table;
}
