"""Names and values of the public AV-HuBERT configurations (facts parts 1.3, 1.6, 1.9 and 1.10)."""

from typing import Any

PRETRAIN_MODEL, SEQ2SEQ_MODEL, TASK = "av_hubert", "av_hubert_seq2seq", "av_hubert_pretraining"

# Settings that both sides have under one name.
ENCODER_NAMES = frozenset(
    """encoder_layers encoder_embed_dim encoder_ffn_embed_dim encoder_attention_heads conv_pos conv_pos_groups
    resnet_relu_type audio_feat_dim modality_fuse dropout attention_dropout activation_dropout dropout_input
    encoder_layerdrop feature_grad_mult final_dim untie_final_proj logit_temp masking_type selection_type
    mask_prob_audio mask_length_audio mask_prob_image mask_length_image modality_dropout audio_dropout""".split()
)
DECODER_NAMES = frozenset(
    """decoder_layers decoder_embed_dim decoder_ffn_embed_dim decoder_attention_heads decoder_dropout
    decoder_attention_dropout decoder_activation_dropout max_target_positions""".split()
)

# What AVHubert, TextDecoder and the clips are built for. A file that says otherwise computes something else.
ENCODER_FIXED: dict[str, Any] = {
    "layer_norm_first": True,
    "activation_fn": "gelu",
    "sub_encoder_layers": 0,
    "target_glu": False,
    "sim_type": "cosine",
}
DECODER_FIXED: dict[str, Any] = {
    "decoder_normalize_before": True,
    "decoder_learned_pos": False,
    "share_decoder_input_output_embed": True,
    "no_scale_embedding": True,
    "no_token_positional_embeddings": False,
}
TASK_FIXED: dict[str, Any] = {
    "normalize": True,
    "stack_order_audio": 4,
    "image_crop_size": 88,
    "image_mean": 0.421,
    "image_std": 0.165,
}

# Known, and without meaning here: training of theirs, or removed features of fairseq.
UNUSED_NAMES = frozenset(
    """_name w2v_path w2v_args no_pretrained_weights final_dropout apply_mask mask_length mask_prob mask_selection
    mask_other no_mask_overlap mask_min_space mask_channel_length mask_channel_prob mask_channel_selection
    mask_channel_other mask_channel_min_space no_mask_channel_overlap freeze_finetune_updates layerdrop
    decoder_layerdrop normalize data label_rate extractor_mode conv_feature_layers conv_bias latent_temp
    dropout_features skip_masked skip_nomask resnet_weights input_modality wav_input""".split()
)

# The structure of every public model; ours can be another, which the public code could not build.
PUBLIC_RESNET: dict[str, Any] = {"resnet_width": 64, "resnet_blocks": [2, 2, 2, 2]}

# A number that older fairseq versions store with sinusoidal positions and never read.
UNREAD_BUFFER = "decoder.embed_positions._float_tensor"
