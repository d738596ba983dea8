"""How much a model file computes and holds: multiply-adds and parameters, of ONNX and TFLite."""
