"""What is wrong with records before anything is trained on them, and what they will be like in training.

`schema` looks at one record and `fields` at each of its fields, `pictures` at one picture, `lengths` counts
tokens as LLaVA does, `repeats` finds what stands twice, `run` puts them together, `fix` mends what can only
be meant in one way. Everything is streamed: what is compared goes through databases in temporary files.
"""
