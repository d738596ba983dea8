"""What to time: blocks, sites, paths and their export; and the campaign that times them.

Names load on first use, so that importing the package is cheap and pulls in neither torch nor onnx.
"""

from typing import TYPE_CHECKING

from bpnas.base.lazy import lazy_names

if TYPE_CHECKING:
    from bpnas.profiler.backbone import Backbone, BackboneError, Site
    from bpnas.profiler.block import Block, BlockError, ComplexPath, SimplePath, parse_path
    from bpnas.profiler.campaign.estimate import Estimate, Estimates, estimate
    from bpnas.profiler.campaign.records import Plan, Records, RecordsError, Setup
    from bpnas.profiler.campaign.run import CampaignResult, plan_parts, run_campaign
    from bpnas.profiler.cost import Cost, block_cost, network_cost, path_cost
    from bpnas.profiler.models.modules import build_module
    from bpnas.profiler.models.onnx_export import to_onnx
    from bpnas.profiler.models.tflite_export import to_tflite
    from bpnas.profiler.networks import random_networks
    from bpnas.profiler.paths import all_paths, select_paths

_HOMES = {
    "Backbone": "backbone",
    "BackboneError": "backbone",
    "Block": "block",
    "BlockError": "block",
    "CampaignResult": "campaign.run",
    "ComplexPath": "block",
    "Cost": "cost",
    "Estimate": "campaign.estimate",
    "Estimates": "campaign.estimate",
    "Plan": "campaign.records",
    "Records": "campaign.records",
    "RecordsError": "campaign.records",
    "Setup": "campaign.records",
    "SimplePath": "block",
    "Site": "backbone",
    "all_paths": "paths",
    "block_cost": "cost",
    "build_module": "models.modules",
    "estimate": "campaign.estimate",
    "network_cost": "cost",
    "parse_path": "block",
    "path_cost": "cost",
    "plan_parts": "campaign.run",
    "random_networks": "networks",
    "run_campaign": "campaign.run",
    "select_paths": "paths",
    "to_onnx": "models.onnx_export",
    "to_tflite": "models.tflite_export",
}

__all__ = [
    "Backbone",
    "BackboneError",
    "Block",
    "BlockError",
    "CampaignResult",
    "ComplexPath",
    "Cost",
    "Estimate",
    "Estimates",
    "Plan",
    "Records",
    "RecordsError",
    "Setup",
    "SimplePath",
    "Site",
    "all_paths",
    "block_cost",
    "build_module",
    "estimate",
    "network_cost",
    "parse_path",
    "path_cost",
    "plan_parts",
    "random_networks",
    "run_campaign",
    "select_paths",
    "to_onnx",
    "to_tflite",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
