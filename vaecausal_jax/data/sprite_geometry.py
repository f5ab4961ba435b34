"""Numbers of the dSprites world: where a sprite lies and what its outline is.

They live apart from the code because two renderers share them: the exact one (``dsprites``) and the
smooth one (``sprites``). Lengths are pixels of the published 64 x 64 canvas at scale 1; the frame
of a sprite has its origin at the sprite's centre, u to the right and v down, like the image. The
numbers were fitted to 332 published frames of dSprites (Matthey, Higgins, Hassabis and Lerchner
2017, https://github.com/deepmind/dsprites-dataset) and reproduce 322 of them to the pixel.
"""

import numpy as np

CANVAS = 64
"""Side of the published canvas."""

CENTRE_START, CENTRE_SPAN = 16.0, 32.0
"""A sprite at position p in [0, 1] has its centre at CENTRE_START + CENTRE_SPAN * p."""

SHAPES = ("square", "ellipse", "heart")
SHAPE_CODES = (1.0, 2.0, 3.0)
"""Values of the factor ``shape``, as published."""

SQUARE_HALF_SIDE = 9.5996
"""Every value in 9.59934-9.59985 explains all published squares."""

ELLIPSE_SEMI_AXES = (12.7735, 7.2223)
"""Semi-axes along u and v."""

ELLIPSE_SIDES = 62
"""The published ellipse is a polygon, its vertices at odd half-steps of the angle."""

HEART_CENTRE = (0.0, -1.0)
"""Where the angles and radii of the heart's outline are measured from."""

HEART_ANGLES = np.concatenate(
    [
        np.arange(-90.0, -78.0, 1.0),
        np.arange(-78.0, -60.0, 2.0),
        np.arange(-60.0, 60.0, 3.0),
        np.arange(60.0, 80.0, 2.0),
        np.arange(80.0, 91.0, 1.0),
    ]
)
"""Knots of the heart's outline (82,), degrees of atan2(v + 1, |u|): notch -90, tip +90."""

# fmt: off
HEART_RADII = np.array(
    [
        4.06579, 4.33977, 4.61376, 4.88510, 5.14912, 5.41173, 5.67961, 5.93651, 6.17759,
        6.39796, 6.59289, 6.81634, 7.01480, 7.41708, 7.76065, 8.11454, 8.43690, 8.71311,
        8.98891, 9.23412, 9.42227, 9.62173, 9.87205, 10.11201, 10.24343, 10.40015, 10.48242,
        10.59411, 10.60855, 10.61456, 10.58674, 10.56716, 10.47129, 10.36937, 10.26929, 10.05327,
        9.89580, 9.70987, 9.48027, 9.25174, 8.99724, 8.76748, 8.51002, 8.22466, 8.04282,
        7.81722, 7.61347, 7.44948, 7.28835, 7.14603, 7.01298, 6.90485, 6.83993, 6.75016,
        6.70227, 6.65388, 6.65672, 6.62352, 6.67196, 6.68081, 6.75340, 6.79541, 6.89673,
        6.98121, 7.04079, 7.16268, 7.27345, 7.39642, 7.54116, 7.73001, 7.95572, 8.18171,
        8.30042, 8.45490, 8.62957, 8.78815, 8.95765, 9.16511, 9.43752, 9.77090, 10.18478,
        10.64521,
    ]
)
# fmt: on
"""Radius at each knot (82,), linear in the angle between knots, mirrored in u."""

HEART_SINE_SERIES = (114.8910, 110.1035, -198.1330, -171.9296, 97.3503, 64.0557, -6.7997)
HEART_COSINE_SERIES = (-106.7611, -115.9166, 147.3066, 119.4141, -41.3793, -23.7552)
"""The same outline, smooth, seen from the sprite's own centre.

radius = P(sin a) + |cos a| Q(sin a) with a the angle of (|u|, v), P and Q the polynomials with
these coefficients, constant first: the least-squares fit to the table (root mean square error
0.017, largest 0.11, at the notch). It needs no arc tangent and no table look-up, and |cos a| gives
it the kinks that the outline has at notch and tip.
"""
