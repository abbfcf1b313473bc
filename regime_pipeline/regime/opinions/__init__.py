"""Second opinions: statistical detectors beside the trend engine. Pure, in shadow, and never a reason to trade.

`terms` names things, `bars` and `features` prepare the data, `hmm_fit` makes models, `hmm_filter` applies them to closed bars,
`consensus`, `tracker` and `survival` say what the labels add up to, `changepoint` and `volatility` are the other two detectors,
`snapshot` and `ladder` put one row per minute together, `throttle` and `evaluation` say what it may do and whether it should.
"""
