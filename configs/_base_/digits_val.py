"""To choose hyper-parameters of a recipe of the digits on other writers: an additional base of a config.

It trains on 776 images and evaluates by kNN on 381 others; no writer of either wrote a test image. Heads with one row
for each image need model.head.num_instances=776.

python tools/train.py configs/quickstart/moco_digits.py --cfg-options _base_=unmix::_base_/digits_val.py
"""

train_dataloader = dict(dataset=dict(split='fit'))
val_dataloader = dict(dataset=dict(split='val'))
test_dataloader = dict(dataset=dict(split='val'))
bank = dict(bank_dataloader=dict(dataset=dict(split='fit')))
val_cfg = bank
test_cfg = dict(bank, controls=False)
test_evaluator = [dict(type='KNN', k=20, temperature=0.1)]
