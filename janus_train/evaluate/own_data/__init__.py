"""The evaluation of a model on its user's own data.

    recipe or JSON lines -> samples -> documents -> losses by source and kind
                                       documents -> questions -> answers, captions -> scores
                                       documents -> prompts   -> images beside the true ones
        -> results.json, answers.jsonl, images.jsonl, images/*.png, unusable.jsonl

Questions and prompts are the samples' own documents up to where the model's part begins, so that the model sees exactly
what its training showed it, whatever the template.
"""
