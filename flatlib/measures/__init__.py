"""What is measured of a network: errors and losses under attack, flatness, landscapes, Hessian."""
