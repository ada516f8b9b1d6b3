"""Do two training runs agree, step by step and as far as honest runs do when they run freely?"""
