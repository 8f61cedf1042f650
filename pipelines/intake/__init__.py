"""Files that clients send: told apart by their bytes, checked against limits, cleaned of what is nobody's business."""
