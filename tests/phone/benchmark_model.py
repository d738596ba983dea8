"""A program that speaks as TensorFlow's benchmark_model does."""

BENCHMARK_MODEL = """#!/bin/sh
# Prints what TensorFlow's benchmark_model prints, and treats a model as its file says.
for word in "$@"; do
    case "$word" in
        --graph=*) graph="${word#*=}" ;;
        --num_runs=*) runs="${word#*=}" ;;
        --help) echo "usage: benchmark_model --graph=string --num_runs=int32"; exit 0 ;;
    esac
done
[ -n "$graph" ] || { echo "Please specify the name of your TF Lite input file with --graph"; exit 1; }
case "$(cat "$graph")" in
    refuse) echo "ERROR: Failed to initialize the interpreter"; exit 1 ;;
    abort) kill -6 $$ ;;
    hang) sleep 60 ;;
    silent) exit 0 ;;
    tiny) echo "count=$runs curr=0 min=0 max=0 avg=0 std=0"; exit 0 ;;
esac
echo "INFO: STARTING!"
echo "count=7 first=9999 curr=9999 min=9000 max=9999 avg=9999 std=2"
echo "INFO: Running benchmark for at least $runs iterations and at least 1 seconds."
echo "count=$runs first=1300 curr=1250 min=1200 max=1300 avg=1250.5 std=12 p5=1200 median=1250 p95=1300"
echo "INFO: Inference timings in us: Init: 2500, First inference: 1300, Warmup (avg): 9999, Inference (avg): 1250.5"
"""
