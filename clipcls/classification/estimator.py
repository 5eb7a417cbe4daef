"""An estimator as scikit-learn wants it, without its import, which takes a second."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ClassVar

from clipcls.errors import not_fitted

if TYPE_CHECKING:
    from typing import Self


class Estimator:
    """Parameters, tags and fitted state of a classifier.

    `_fitted` is the attribute that the subclass's `fit` sets last.
    """

    _fitted: ClassVar[str]

    @classmethod
    def _parameters(cls) -> list[str]:
        return list(inspect.signature(cls.__init__).parameters)[1:]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters as given; with `deep` also those of estimators among them."""
        found = {name: getattr(self, name) for name in self._parameters()}
        for name, value in list(found.items()) if deep else ():
            if isinstance(value, Estimator):
                found |= {f"{name}__{key}": inner for key, inner in value.get_params().items()}
        return found

    def set_params(self, **parameters: Any) -> Self:
        """Changes parameters; `fit` again to use them."""
        for name, value in parameters.items():
            first, _, rest = name.partition("__")
            if first not in self._parameters():
                raise ValueError(f"{type(self).__name__} has no parameter {name!r}")
            if rest:
                getattr(self, first).set_params(**{rest: value})
            else:
                setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=False),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(two_d_array=True, string=True),
            requires_fit=True,
        )

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, self._fitted)

    def _forget(self) -> None:
        """Makes the estimator unfitted, until `fit` succeeds."""
        vars(self).pop(self._fitted, None)

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise not_fitted(self)

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.get_params(False).items())
        return f"{type(self).__name__}({given})"
