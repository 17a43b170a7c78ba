"""Names that a shell completes: what is registered, without importing it (tests/cli/test_completion.py compares)."""

from __future__ import annotations

NETWORKS = """
    MobileNetV2 ResNet18 ResNet34 ResNet50 ShuffleV1 ShuffleV2 appnp cnn gat gcn hf_causal lif lif_resnet18 mlp
    mlp_nodes resnet110 resnet14 resnet20 resnet32 resnet32x4 resnet44 resnet56 resnet8 resnet8x4 sage
    torchvision_mobilenet_v2 torchvision_mobilenet_v3_large torchvision_mobilenet_v3_small torchvision_resnet152
    torchvision_resnet18 torchvision_resnet34 torchvision_resnet50 torchvision_vit_b_16 torchvision_vit_tiny transformer
    vgg11 vgg13 vgg16 vgg19 vgg8 wrn_16_1 wrn_16_2 wrn_40_1 wrn_40_2
""".split()
"""Networks; one file registers several."""

DATA = """
    arithmetic cifar10 cifar100 digits fashion_mnist hf image_folder imagenet parquet planetoid python_docs sbm stl10
    svhn text tiny_imagenet
""".split()
"""Data sets."""
