"""The arm from its URDF: where the tool is, how far joints may go, and joint targets for a chunk of actions."""

from __future__ import annotations

import numpy as np
import pinocchio as pin

from vlaq_ros.datatypes import ActionChunk, ActionSpace, FloatArray
from vlaq_ros.errors import ActionSizeError, FrameNameError, JointNamesError, RobotDescriptionError

_END_EFFECTOR_COLUMNS = 7  # dx dy dz, rotation vector, gripper
_TOLERANCE = 1e-5  # m and rad: below any arm's repeatability, so that velocities taken from the targets are smooth
_MAX_ITERATIONS = 20
_DAMPING = 1e-6  # floor of the squared damping, in m^2 and rad^2


class Kinematics:
    """Kinematics of the joints that are commanded; every other joint of the URDF stays at zero.

    Columns are `joint_names`, as the URDF calls them, everywhere; the last one is the gripper, the others are the arm.
    Methods may be called from several threads: each call has its own pinocchio `Data`.

    Raises:
        RobotDescriptionError: `urdf` cannot be parsed.
        JointNamesError: a name is no revolute, continuous or prismatic joint of the URDF.
        FrameNameError: the URDF has no frame `tool_frame`.
    """

    def __init__(self, urdf: str, joint_names: tuple[str, ...], tool_frame: str) -> None:
        try:
            robot = pin.buildModelFromXML(urdf)
        except ValueError as error:
            raise RobotDescriptionError(str(error)) from None
        scalar = {
            name: index
            for index, (name, joint) in enumerate(zip(robot.names, robot.joints, strict=True))
            if index > 0 and joint.nv == 1  # neither pinocchio's "universe" nor planar or floating joints
        }
        if missing := [name for name in joint_names if name not in scalar]:
            raise JointNamesError(missing, scalar, "the robot description")
        if not robot.existFrame(tool_frame):
            raise FrameNameError(tool_frame, [frame.name for frame in robot.frames])

        locked = [index for index in range(1, robot.njoints) if robot.names[index] not in joint_names]
        self.joint_names = joint_names
        self._model = pin.buildReducedModel(robot, locked, pin.neutral(robot))
        self._frame = self._model.getFrameId(tool_frame)
        joints = [self._model.joints[self._model.getJointId(name)] for name in joint_names]
        self._columns = np.array([joint.idx_v for joint in joints])
        # pinocchio holds a continuous joint as cosine and sine: it has no limits
        self.position_limits: FloatArray = np.array(
            [
                (self._model.lowerPositionLimit[joint.idx_q], self._model.upperPositionLimit[joint.idx_q])
                if joint.nq == 1
                else (-np.inf, np.inf)
                for joint in joints
            ]
        )  # [J, 2] rad (m)
        self.velocity_limits: FloatArray = self._model.velocityLimit[self._columns]  # [J] rad/s (m/s)

    def forward(self, q: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Pose of the tool frame in the root link.

        Args:
            q: joint positions [N, J] rad (m).

        Returns:
            Positions [N, 3] m and rotation matrices [N, 3, 3].
        """
        data = self._model.createData()
        positions, rotations = np.empty((len(q), 3)), np.empty((len(q), 3, 3))
        for row, joints in enumerate(q):
            pin.forwardKinematics(self._model, data, self._configuration(joints))
            tool = pin.updateFramePlacement(self._model, data, self._frame)
            positions[row], rotations[row] = tool.translation, tool.rotation
        return positions, rotations

    def joint_targets(self, chunk: ActionChunk, q_observed: FloatArray) -> FloatArray:
        """Turn relative actions into absolute joint positions.

        A joint action adds to the observed position. An end-effector action moves the observed tool pose: its
        translation adds in the root link, its rotation vector w turns on the left, R = exp(w) R_observed; inverse
        kinematics then starts from the row before. A pose out of reach, or reachable only beyond the position
        limits, gives the joints within the limits that came nearest. What is not finite stays so, for
        `Safety.admit` to refuse.

        Args:
            chunk: its gripper column is passed through.
            q_observed: joint positions [J] rad (m) at the chunk's stamp.

        Returns:
            Joint positions [T, J] rad (m).

        Raises:
            ActionSizeError: the actions' columns do not fit this arm.
        """
        columns = len(self.joint_names) if chunk.space is ActionSpace.JOINT else _END_EFFECTOR_COLUMNS
        if chunk.actions.shape[1] != columns:
            raise ActionSizeError(chunk.space, chunk.actions.shape[1], columns)
        if chunk.space is ActionSpace.JOINT:
            arm = q_observed[:-1] + chunk.actions[:, :-1]
        else:
            arm = self._follow(chunk.actions[:, :3], chunk.actions[:, 3:6], q_observed)
        return np.column_stack([arm, chunk.actions[:, -1]])

    def relative_actions(self, targets: FloatArray, q_observed: FloatArray, space: ActionSpace) -> FloatArray:
        """Turn absolute joint positions into the actions [T, A] that ask for them: the inverse of `joint_targets`.

        Args:
            targets: joint positions [T, J] rad (m).
            q_observed: joint positions [J] rad (m) that the actions are relative to.
            space: of the actions.
        """
        if space is ActionSpace.JOINT:
            arm = targets[:, :-1] - q_observed[:-1]
        else:
            positions, rotations = self.forward(np.vstack([q_observed, targets]))
            turns = rotation_vectors(rotations[1:] @ rotations[0].T)
            arm = np.hstack([positions[1:] - positions[0], turns])
        return np.column_stack([arm, targets[:, -1]])

    def _configuration(self, joints: FloatArray) -> FloatArray:
        """Joint positions [J] as pinocchio's configuration vector."""
        tangent = np.empty(self._model.nv)
        tangent[self._columns] = joints
        configuration: FloatArray = pin.integrate(self._model, pin.neutral(self._model), tangent)
        return configuration

    def _follow(self, translations: FloatArray, rotation_vectors: FloatArray, q_observed: FloatArray) -> FloatArray:
        """Arm positions [T, J - 1] whose tool poses are the observed one, moved by each row [T, 3]."""
        positions, rotations = self.forward(q_observed[None])
        arm = np.full((len(translations), len(q_observed) - 1), np.nan)
        joints = q_observed
        for row, (translation, turn) in enumerate(zip(translations, rotation_vectors, strict=True)):
            if not np.isfinite([translation, turn]).all():
                continue
            joints = self._inverse(pin.SE3(pin.exp3(turn) @ rotations[0], positions[0] + translation), joints)
            arm[row] = joints[:-1]
        return arm

    def _inverse(self, target: pin.SE3, start: FloatArray) -> FloatArray:
        """Joint positions [J] that bring the tool to `target`; the gripper stays.

        Damped least squares whose damping falls with the error (Sugihara, "Solvability-unconcerned inverse
        kinematics by the Levenberg-Marquardt method", IEEE T-RO 2011), with joints that push against a limit left out.
        """
        data = self._model.createData()
        lower, upper = self.position_limits[:-1].T
        joints = best = start
        best_error = np.inf
        for _ in range(_MAX_ITERATIONS):
            pin.computeJointJacobians(self._model, data, self._configuration(joints))
            tool = pin.updateFramePlacement(self._model, data, self._frame)
            turn = pin.log3(target.rotation @ tool.rotation.T)
            error = np.concatenate([target.translation - tool.translation, turn])
            distance = float(np.linalg.norm(error))
            if distance < best_error:
                best, best_error = joints, distance
            if best_error < _TOLERANCE:
                break
            jacobian = pin.getFrameJacobian(self._model, data, self._frame, pin.LOCAL_WORLD_ALIGNED)
            jacobian = jacobian[:, self._columns[:-1]]
            descent = jacobian.T @ error
            blocked = ((joints[:-1] <= lower) & (descent < 0)) | ((joints[:-1] >= upper) & (descent > 0))
            jacobian = np.where(blocked, 0.0, jacobian)
            damping = (0.5 * error @ error + _DAMPING) * np.eye(6)
            step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + damping, error)
            joints = np.append(np.clip(joints[:-1] + step, lower, upper), joints[-1])
        return best


def rotation_vectors(rotations: FloatArray) -> FloatArray:
    """Rotation vectors [N, 3] rad of rotation matrices [N, 3, 3]."""
    return np.array([pin.log3(rotation) for rotation in rotations])
