"""What the chart's values may be: the model from which values.schema.json and the README's table are made.

    make chart

The chart ships what is made from it, not the model. A value is added in three places:

1. `helm/quantmill/values.yaml`: its default, and above it a line `## @param path.of.the.value what it does`.
2. Here: a field in the class of its section, one class a section. Fields are in snake_case and become camelCase. A new
   section is a class of its own in a module of its own and one line in `helm/model/values.py`.
3. `make chart` writes the schema and the table. tests/helm/test_model.py fails while the three are not in step.

A `Section` is a map none of whose keys must be given: the defaults stand in values.yaml. An `Item` is an entry of a
list or of a map by name that cannot do without some of its keys. Both refuse keys that they do not know. Parts of pods
that Kubernetes defines are checked by Kubernetes' own schema (`helm/model/kubernetes.py`). A value that is renamed or
goes stays in `helm/model/removed.py` and in templates/_removed.tpl, so that users are told its new name.
"""
