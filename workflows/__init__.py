"""Named workflows: `NAME.json` as ComfyUI exports it (API format) beside `NAME.toml`, which names its typed parameters.

The shipped ones lie in this folder. `template` reads one, `filling` puts values in, `catalogue` finds them by name,
`compatibility` compares one with a ComfyUI, `schema` describes its parameters as JSON Schema.
"""
