"""Pretrained weights: files of other libraries, official ones and ours.

`formats.read_checkpoint` recognizes a file by its content. Each format has a
file of its own, with a map from its names to ours and a reader. All of them
return a `Checkpoint`, which `fitting` compares with a network. No reader opens
a pickle.
"""
