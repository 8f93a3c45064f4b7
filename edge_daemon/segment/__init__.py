"""The engine room: a sealed bundle goes in, tensors come out; everything around the tensors is ours and shared.

bundle      load and seal the folder that decides what an engine sees
registry    open_engine, and what `edge-daemon engine` prints
see         frame -> labels, coverage, regions: the one path all engines share (prepare, tiling)
protocol    the Engine seam; onnx and tensorrt implement it
parity      may a TensorRT plan stand in for ONNX Runtime; plan_cache keeps plans and verdicts
"""
