"""Backbones shipped as data; `bpnas.profiler.Backbone.load` reads them."""
