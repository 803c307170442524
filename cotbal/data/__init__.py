"""From the publishers' annotation files to records that a model is trained on and questions that score it.

One module per source reads its publisher's own format; `vqa` and `refcoco` merge the questions on a picture
into conversations, `mix` puts the prepared tasks together. Files are streamed; what has to be sorted goes
through a database in a temporary file, so that memory does not grow with the data.
"""
