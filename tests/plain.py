"""REKD as one would write it with `transformers` alone, and the networks of timm and transformers at a preset's size.

What tests/bench.py measures this repository against. shape: image_size and patch_size, or vocab_size and max_len, as in models.build.
"""

import functools
import tempfile

import torch
import torch.nn as nn
import torch.nn.functional as F

from models import load_pretrained, parse_preset


def hugging_face(preset, shape):
    """The ViTModel or BertModel of the preset's size, without dropout in the network, as ours."""
    import transformers
    transformers.utils.logging.disable_progress_bar()
    kind, dim, depth, heads = parse_preset(preset)
    config, model = (transformers.ViTConfig, transformers.ViTModel) if kind == "vit" else (transformers.BertConfig, transformers.BertModel)
    shape = {"max_position_embeddings" if key == "max_len" else key: value for key, value in shape.items()}
    return model(config(hidden_size=dim, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=4 * dim, hidden_dropout_prob=0.0,
                        attention_probs_dropout_prob=0.0, attn_implementation="sdpa", **shape), add_pooling_layer=False)


def same_weights(ours, theirs):
    """Our backbone takes the weights of a network of transformers, through the file that it saves."""
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        load_pretrained(ours, f"{folder}/model.safetensors")


def timm_vit(preset, shape, network):
    """timm's vit_*_patch16_224 at the preset's size, with the weights of our ViT."""
    import timm
    _, dim, depth, heads = parse_preset(preset)
    vit = timm.models.VisionTransformer(shape["image_size"], shape["patch_size"], num_classes=0, embed_dim=dim, depth=depth, num_heads=heads,
                                        norm_layer=functools.partial(nn.LayerNorm, eps=1e-12))
    names = dict(cls="cls_token", positions="pos_embed", patch_embedding="patch_embed.proj", qkv="attn.qkv", out="attn.proj", fc1="mlp.fc1", fc2="mlp.fc2")
    weights = {".".join(names.get(part, part) for part in key.split(".")): p for key, p in network.state_dict().items()}
    vit.load_state_dict({key: p.view_as(vit.state_dict()[key]) for key, p in weights.items()})
    return vit


def hidden(network, x):
    """-> (B, T, dim), the last hidden states of a network of transformers; id 0 is padding."""
    return (network(x) if x.is_floating_point() else network(input_ids=x, attention_mask=(x != 0).long())).last_hidden_state


class Plain(nn.Module):
    """Two networks, and a hook that multiplies the predictor's content embeddings by the mask."""

    def __init__(self, preset, shape, num_classes):
        super().__init__()
        self.generator, self.predictor = hugging_face(preset, shape), hugging_face(preset, shape)
        dim, self.vit = parse_preset(preset)[1], "image_size" in shape
        self.select = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(0.1), nn.Linear(dim, 2))
        self.classify = nn.Sequential(nn.Dropout(0.1), nn.Linear(dim, num_classes))
        content = self.predictor.embeddings.patch_embeddings if self.vit else self.predictor.embeddings.word_embeddings
        content.register_forward_hook(lambda module, inputs, output: output * self.mask.unsqueeze(-1))

    def sample(self, x, tau):
        return F.gumbel_softmax(self.select(hidden(self.generator, x)[:, int(self.vit):]), tau)           # (B, N, 2)

    def predict(self, x, mask):
        self.mask = mask if self.vit else F.pad(mask[:, 1:], (1, 0), value=1.0)                           # [CLS] is visible
        return self.classify(hidden(self.predictor, x)[:, 0])

    def loss(self, teacher, x, y, *, tau, rate):
        soft = self.sample(x, tau)
        real = torch.ones_like(soft[..., 1]) if self.vit else (x != 0).float()                            # (B, N)
        mask = ((soft[..., 1] > soft[..., 0]).float() - soft[..., 1].detach() + soft[..., 1]) * real      # straight-through
        logits = self.predict(x, mask)
        with torch.no_grad():
            teacher_soft, teacher_logits = teacher.sample(x, tau), teacher.predict(x, mask)
        rationale = (teacher_soft * ((teacher_soft + 1e-9).log() - (soft + 1e-9).log())).sum(-1) * real
        kd = F.kl_div((logits / tau).log_softmax(-1), (teacher_logits / tau).softmax(-1), reduction="batchmean")
        select = (mask.sum(1).mean() - rate * real.sum(1).mean()) ** 2
        return 0.5 * (F.cross_entropy(logits, y) + 0.01 * select) + 0.5 * (0.5 * rationale.sum(1).mean() + tau**2 * kd)
