"""Install torch without CUDA packages where that is possible: from the CPU index, else from the default
one."""

import subprocess
import sys


def install(*arguments: str) -> bool:
    return (
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
        ).returncode
        == 0
    )


def main() -> None:
    requirement, index = sys.argv[1:3]
    # the CPU index may be out of reach (a mirror, a closed network): there the default one decides which
    # build comes
    if not install("--retries", "0", "--timeout", "10", "--index-url", index, requirement) and not install(
        requirement
    ):
        sys.exit(f"could not install {requirement}")


if __name__ == "__main__":
    main()
