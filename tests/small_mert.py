"""MERT folders as published, small and with random weights."""

import json

import torch

# What config.json of the two published models says of the architecture.
PUBLISHED_CONFIG = {
    "95M": {
        "architectures": ["MERTModel"],
        "auto_map": {
            "AutoConfig": "configuration_MERT.MERTConfig",
            "AutoModel": "modeling_MERT.MERTModel",
        },
        "model_type": "mert_model",
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "hidden_dropout": 0.1,
        "activation_dropout": 0.0,
        "attention_dropout": 0.1,
        "layerdrop": 0.05,
        "layer_norm_eps": 1e-05,
        "do_stable_layer_norm": False,
        "feat_extract_norm": "group",
        "feat_extract_activation": "gelu",
        "feat_proj_layer_norm": True,
        "feat_proj_dropout": 0.1,
        "conv_dim": [512] * 7,
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
        "conv_bias": False,
        "num_conv_pos_embeddings": 128,
        "num_conv_pos_embedding_groups": 16,
        "mask_time_prob": 0.05,
        "mask_feature_prob": 0.0,
        "attention_relax": -1.0,
        "deepnorm": False,
        "feature_extractor_cqt": False,
        "feature_extractor_cqt_bins": 336,
        "sample_rate": 24000,
    }
}
PUBLISHED_CONFIG["330M"] = PUBLISHED_CONFIG["95M"] | {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "do_stable_layer_norm": True,
    "attention_relax": 32.0,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "layerdrop": 0.0,
}
PREPROCESSOR = {
    "do_normalize": True,
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "feature_size": 1,
    "padding_side": "right",
    "padding_value": 0,
    "return_attention_mask": True,
    "sampling_rate": 24000,
}
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
# The names of a weight norm before torch 2: those of the published files.
OLD_NAMES = {
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
}


def small_config(size):
    """The published config with small dimensions."""
    return PUBLISHED_CONFIG[size] | SMALL


def small_hubert(size):
    """transformers' own HubertModel of that config, and its state by name.

    Biases and norms are drawn too, so that no part is the identity.
    """
    from transformers import HubertConfig, HubertModel

    torch.manual_seed(0)
    model = HubertModel(HubertConfig.from_dict(small_config(size))).eval()
    with torch.no_grad():
        for name, values in model.named_parameters():
            mean = float("norm.weight" in name or "original0" in name)
            values.normal_(mean, 0.3)
    state = {}
    for name, values in model.state_dict().items():
        for new, old in OLD_NAMES.items():
            name = name.replace(new, old)
        state[name] = values
    assert "masked_spec_embed" in state
    return model, state


def write_mert(folder, size="95M", **changes):
    """A folder as published; ``changes`` go into config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    model, state = small_hubert(size)
    config = small_config(size) | changes
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    text = json.dumps(PREPROCESSOR)
    (folder / "preprocessor_config.json").write_text(text, "utf-8")
    torch.save(state, folder / "pytorch_model.bin")
    return folder, model
