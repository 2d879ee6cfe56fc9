"""Attribution with ground truth: exact runs without some documents, and how well predictions agree with them."""
