"""The page to draw on: `studio` makes the images, `recall` reads settings back, `page` is what people see."""
