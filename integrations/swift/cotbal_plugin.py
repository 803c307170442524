"""For `swift sft --external_plugins`: the weights are those of the file that COTBAL_WEIGHTS names."""

from cotbal.integrations.swift import balance

balance()
