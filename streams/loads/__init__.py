"""Files of the past -> commands through the topics, beside live traffic: checked first, sent with brakes, gone on with after a kill."""
