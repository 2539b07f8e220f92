"""The product's image, built from deploy/Containerfile on the local base."""

from .containers import run


def test_the_command_line_runs_in_the_image(product_image: str) -> None:
    assert "Usage: metaledger" in run(product_image, "--help")


def test_the_image_carries_the_schemas(product_image: str) -> None:
    assert "ImageRegistered" in run(product_image, "--json", "schema", "list")


def test_the_image_does_not_run_as_root(product_image: str) -> None:
    assert int(run(product_image, "-u", entrypoint="id")) > 0


def test_the_builds_secrets_are_not_in_the_image(product_image: str) -> None:
    looked_for = ["/etc/pip.conf", "/run/secrets"]
    script = "for path; do [ -e $path ] && cat $path; done; echo end"
    assert run(product_image, "-c", script, "sh", *looked_for, entrypoint="sh") == "end\n"
