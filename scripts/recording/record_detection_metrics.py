"""Records the metrics of the OD API's evaluators on seeded objects and detections (TensorFlow 1.15, Python 3.7).

    PYTHONPATH=SITE python record_detection_metrics.py OUTPUT.json

The file has the objects and the detections, and what each evaluator returns for them. They include difficult objects,
group-of boxes, image-level labels, images without objects or without detections, a class without objects, a class
without detections, and detections without an area. CONTRIBUTING.md says how to install the OD API into SITE.
"""

import json
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
from object_detection.utils import object_detection_evaluation as evaluation

CLASSES, IMAGES = 6, 24
NO_OBJECTS, NO_DETECTIONS = 5, 6  # ids of classes
CATEGORIES = [{"id": number, "name": "class {}".format(number)} for number in range(1, CLASSES + 1)]
EVALUATORS = {
    "pascal_voc": evaluation.PascalDetectionEvaluator,
    "open_images": evaluation.OpenImagesDetectionEvaluator,
    "open_images_challenge": evaluation.OpenImagesDetectionChallengeEvaluator,
}


def random_boxes(rng, count):
    corner, size = rng.uniform(0, 300, [count, 2]), rng.uniform(20, 160, [count, 2])
    return np.concatenate([corner, corner + size], axis=1).round(2)


def make_image(rng, number):
    """Returns the objects, the image-level labels and the detections of an image; boxes are ymin, xmin, ymax, xmax."""
    count = 0 if number == 3 else rng.randint(1, 9)
    boxes = random_boxes(rng, count)
    classes = rng.choice([1, 2, 3, 4, NO_DETECTIONS], count)
    near = np.repeat(np.arange(count), 3)
    shifted = (boxes[near] + rng.normal(0, 9, [len(near), 4])).round(2)
    inside = boxes[near] * 0.6 + boxes[near][:, [2, 3, 0, 1]] * 0.4  # small boxes in the middle of objects
    detected = np.concatenate([shifted, inside[::2].round(2), random_boxes(rng, 6)])
    detected_classes = np.concatenate([classes[near], classes[near][::2], rng.randint(1, NO_DETECTIONS, 6)])
    if number == 7:  # no detections
        detected, detected_classes = detected[:0], detected_classes[:0]
    kept = detected_classes != NO_DETECTIONS
    detected, detected_classes = detected[kept], detected_classes[kept]
    if len(detected):
        detected[-1, 2] = detected[-1, 0]  # no area
    return {
        "boxes": boxes.tolist(),
        "classes": classes.tolist(),
        "difficult": (rng.uniform(size=count) < 0.2).tolist(),
        "group_of": (rng.uniform(size=count) < 0.25).tolist(),
        "image_classes": sorted(set(rng.randint(1, CLASSES + 1, 2).tolist())),
        "detected_boxes": detected.tolist(),
        "detected_classes": detected_classes.tolist(),
    }


def evaluate(evaluator_class, images):
    """Returns the metrics of one evaluator; NaN becomes None."""
    evaluator = evaluator_class(CATEGORIES)
    for number, image in enumerate(images):
        evaluator.add_single_ground_truth_image_info(
            number,
            {
                "groundtruth_boxes": np.array(image["boxes"]).reshape([-1, 4]),
                "groundtruth_classes": np.array(image["classes"], int),
                "groundtruth_difficult": np.array(image["difficult"], bool),
                "groundtruth_group_of": np.array(image["group_of"], bool),
                "groundtruth_image_classes": np.array(image["image_classes"], int),
            },
        )
        evaluator.add_single_detected_image_info(
            number,
            {
                "detection_boxes": np.array(image["detected_boxes"]).reshape([-1, 4]),
                "detection_scores": np.array(image["scores"]),
                "detection_classes": np.array(image["detected_classes"], int),
            },
        )
    metrics = evaluator.evaluate().items()
    return {name: None if np.isnan(value) else float(value) for name, value in metrics}


def main(output):
    rng = np.random.RandomState(17)
    images = [make_image(rng, number) for number in range(IMAGES)]
    total = sum(len(image["detected_boxes"]) for image in images)
    scores = (rng.permutation(total) + 1) / (total + 1.0)  # no two are equal: the order of ties is not defined
    for image in images:
        image["scores"] = [round(score, 6) for score in scores[: len(image["detected_boxes"])]]
        scores = scores[len(image["detected_boxes"]) :]
    metrics = {name: evaluate(evaluator, images) for name, evaluator in EVALUATORS.items()}
    with open(output, "w") as file:
        json.dump({"categories": CATEGORIES, "images": images, "metrics": metrics}, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
